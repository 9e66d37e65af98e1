"""The whole report as plain data: a title page and numbered sections, in order."""

from collections.abc import Callable
from typing import Any

from groundup.artifacts.printable import printable
from groundup.report.sections.bits import bits
from groundup.report.sections.corpus import corpus
from groundup.report.sections.cover import cover
from groundup.report.sections.learning import learning
from groundup.report.sections.planned import planned
from groundup.report.sections.provenance import provenance
from groundup.report.sections.recipe import recipe
from groundup.report.sections.scores import scores
from groundup.report.sections.speech import conversation, samples
from groundup.report.sections.text import text
from groundup.report.sections.tokens import tokens
from groundup.report.sections.use import use

SECTIONS: tuple[Callable[[dict[str, Any]], dict[str, Any] | None], ...] = (
    planned, text, corpus, tokens, learning, scores, samples, conversation, bits, use, provenance, recipe,
)  # fmt: skip


def tell(facts: dict[str, Any], *, title: str | None = None, author: str | None = None) -> dict[str, Any]:
    """{"cover": ..., "sections": [...]}: what there is to tell of a run, and nothing of what is not there."""
    found = [section for make in SECTIONS if (section := make(facts)) is not None]
    return _printable({"cover": cover(facts, title, author), "sections": found})


def _printable(value: Any) -> Any:
    """Every text of the story without what no page can show."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value
