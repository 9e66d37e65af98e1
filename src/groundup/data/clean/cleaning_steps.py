"""Which steps a document of a source goes through, in order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from groundup.data.clean import (
    c4,
    classifier,
    code_filter,
    fineweb,
    gopher,
    language,
    normalize,
    pii,
    repetition,
    word_list,
)
from groundup.data.clean.step_types import CleaningStep, Filter, Mapper
from groundup.data.decontaminate import EvaluationIndex, contamination_filter
from groundup.data.document import Document, DroppedDocument
from groundup.recipe.data_config import DataConfig, SourceConfig


@dataclass
class FilterContext:
    """What the steps need besides the recipe, and what they note while they work.

    Attributes:
        weights: the classifier's file, when the recipe has a classifier.
        evaluation: the index of what models will be tested on, when the recipe keeps it out.
        languages: how many texts were found to be in each language.
        hits: the evaluation items that were found, in order.
    """

    weights: Path | None = None
    evaluation: Path | None = None
    languages: dict[str, int] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)


def build_steps(section: DataConfig, source: SourceConfig, context: FilterContext) -> list[CleaningStep]:
    """Repair first, then what is cheap and drops most, then what changes the text that stays."""
    kind = source.kind
    found: list[CleaningStep] = [Mapper("normalize", normalize.normalize), Filter("empty", _empty)]
    if context.evaluation is not None:
        index, rule = EvaluationIndex.load(context.evaluation), section.decontaminate.rule
        found.append(Filter("decontaminate", contamination_filter(index, rule, context.hits)))
    if not source.clean:
        return found
    if kind in section.code.kinds:
        found.append(Filter("code", code_filter.code_filter(section.code)))
    if kind != "code" and section.language.languages:
        found.append(Filter("language", language.language_filter(section.language, context.languages)))
    if kind in section.gopher_repetition.kinds:
        found.append(
            Filter("gopher_repetition", repetition.gopher_repetition_filter(section.gopher_repetition))
        )
    if kind in section.gopher_quality.kinds:
        found.append(Filter("gopher_quality", gopher.gopher_quality_filter(section.gopher_quality)))
    if kind in section.c4.kinds:
        found += [Mapper("c4_lines", c4.c4_line_mapper(section.c4)), Filter("c4", c4.c4_filter(section.c4))]
    if kind in section.fineweb.kinds:
        found.append(Filter("fineweb", fineweb.fineweb_filter(section.fineweb)))
    found += [
        Filter("word_list", word_list.word_list_filter(words))
        for words in section.word_lists
        if kind in words.kinds
    ]
    if section.classifier is not None and context.weights is not None and kind in section.classifier.kinds:
        found.append(
            Filter("classifier", classifier.classifier_filter(context.weights, section.classifier.threshold))
        )
    found.append(Mapper("pii", pii.pii_mapper(section.pii)))
    return found


def _empty(text: str) -> str | None:
    return None if text.strip() else "empty"


def clean_document(
    document: Document, todo: list[CleaningStep], on_change: Callable[[str, str, str, str], None]
) -> Document | DroppedDocument:
    """The document after all steps, or why it fell. When it passes, `changed` is told of each change:
    its rule, the document's id, the text before and after it.
    """
    text = document.text
    changes: list[tuple[str, str, str]] = []
    for step in todo:
        if isinstance(step, Mapper):
            after = step.apply(text)
            if after != text:
                changes.append((step.name, text, after))
                text = after
        elif (reason := step.drop_reason(text)) is not None:
            return DroppedDocument(
                step.name if reason == step.name else f"{step.name}: {reason}", document.id, document.text
            )
    for rule, before, after in changes:
        on_change(rule, document.id, before, after)
    return Document(text, document.id)


def utf8_bytes(text: str) -> int:
    """Bytes as UTF-8; lone surrogates, which broken input may hold, count as what replaces them."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
