"""The report as plain data: a cover page and numbered sections."""

from collections.abc import Callable
from typing import Any

from groundup.artifacts.sanitize import sanitize_text
from groundup.report.sections.corpus_section import corpus_section
from groundup.report.sections.cover_page import cover_page
from groundup.report.sections.data_section import data_section
from groundup.report.sections.plan_vs_actual_section import plan_vs_actual_section
from groundup.report.sections.preference_section import preference_section
from groundup.report.sections.pretraining_section import pretraining_section
from groundup.report.sections.provenance_section import provenance_section
from groundup.report.sections.quantization_section import quantization_section
from groundup.report.sections.recipe_section import recipe_section
from groundup.report.sections.reinforcement_section import reinforcement_section
from groundup.report.sections.samples_section import chat_section, samples_section
from groundup.report.sections.scores_section import scores_section
from groundup.report.sections.tokenization_section import tokenization_section
from groundup.report.sections.usage_section import usage_section

SECTIONS: tuple[Callable[[dict[str, Any]], dict[str, Any] | None], ...] = (
    plan_vs_actual_section, data_section, corpus_section, tokenization_section, pretraining_section, scores_section,
    samples_section, chat_section, preference_section, reinforcement_section, quantization_section, usage_section,
    provenance_section, recipe_section,
)  # fmt: skip


def build_document(run_data: dict[str, Any], *, title: str | None = None, author: str | None = None) -> dict[str, Any]:
    """{"cover": ..., "sections": [...]}, with the sections for which the run has data."""
    sections = [section for build in SECTIONS if (section := build(run_data)) is not None]
    return _printable({"cover": cover_page(run_data, title, author), "sections": sections})


def _printable(value: Any) -> Any:
    """Every text without unprintable characters."""
    if isinstance(value, str):
        return sanitize_text(value)
    if isinstance(value, dict):
        return {key: _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value
