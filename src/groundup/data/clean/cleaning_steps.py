"""The cleaning pipeline: which steps a source's documents go through, in which order."""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from groundup.artifacts.arguments import check_choice, iter_texts
from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
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
from groundup.recipe.data_config import DataConfig, SourceKind

CLEANING_TABLES = ("language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "word_lists", "code", "pii")
"""Tables of [data] that change or drop a text by itself."""


@dataclass
class FilterContext:
    """Inputs of the steps besides the recipe, and what they count.

    Attributes:
        weights: file of the quality classifier.
        evaluation: file of the EvaluationIndex.
        languages: detected languages, with the number of texts.
        hits: names of the evaluation items found, in order.
        replaced: personal data replaced, with the number of times by kind.
    """

    weights: Path | None = None
    evaluation: Path | None = None
    languages: dict[str, int] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    replaced: dict[str, int] = field(default_factory=dict)


def clean_texts(
    texts: Iterable[str], kind: SourceKind = "web", *, progress: Progress | None = None, **knobs: Any
) -> tuple[list[Document], list[DroppedDocument]]:
    """Normalize, filter and mask texts as a source of this kind: (kept, dropped), each with the index as id.

    `knobs` are tables of [data], those of the filters and `pii`:
    `gopher_quality={"min_words": 20}, language={"languages": ["en", "de"]}`.

    >>> kept, dropped = clean_texts(["Ceci est une phrase tout à fait ordinaire."], language={"languages": ["en"]})
    >>> dropped[0].reason, dropped[0].id
    ('language: fr', '0')
    """
    checked = iter_texts(texts)
    check_choice("kind", kind, get_args(SourceKind))
    for name in knobs:
        if name in DataConfig.model_fields and name not in CLEANING_TABLES:
            raise UserError(
                f"{name} has no effect on texts in memory, expected one of {', '.join(CLEANING_TABLES)}",
                hint="deduplicate() removes duplicates; groundup run RECIPE does all steps, over files",
            )
    source = {"name": "texts", "kind": kind, "path": "-"}
    config = DataConfig(**{"sources": [source], **knobs})
    steps = build_steps(config, kind, True, FilterContext())
    kept: list[Document] = []
    dropped: list[DroppedDocument] = []
    total = len(texts) if isinstance(texts, Sized) else None
    with (progress or Progress()).task("cleaning", total=total, unit="texts") as task:
        for index, text in enumerate(checked):
            result = clean_document(Document(text, str(index)), steps)
            if isinstance(result, DroppedDocument):
                dropped.append(result)
            else:
                kept.append(result)
            task.advance()
    return kept, dropped


def build_steps(config: DataConfig, kind: str, clean: bool, context: FilterContext) -> list[CleaningStep]:
    """Steps of a kind of source: normalization, cheap filters that drop most, then mappers of the remaining texts.

    Without `clean`: normalization and decontamination only.
    """
    normalizer = normalize.normalize_code if kind == "code" else normalize.normalize
    steps: list[CleaningStep] = [Mapper("normalize", normalizer), Filter("empty", _is_empty)]
    if context.evaluation is not None:
        index, rule = EvaluationIndex.load(context.evaluation), config.decontaminate.rule
        steps.append(Filter("decontaminate", contamination_filter(index, rule, context.hits)))
    if not clean:
        return steps
    if kind in config.code.kinds:
        steps.append(Filter("code", code_filter.code_filter(config.code)))
    if kind != "code":
        steps.append(Filter("language", language.language_filter(config.language, context.languages)))
    if kind in config.gopher_repetition.kinds:
        repetition_filter = repetition.gopher_repetition_filter(config.gopher_repetition)
        steps.append(Filter("gopher_repetition", repetition_filter))
    if kind in config.gopher_quality.kinds:
        steps.append(Filter("gopher_quality", gopher.gopher_quality_filter(config.gopher_quality)))
    if kind in config.c4.kinds:
        steps += [Mapper("c4_lines", c4.c4_line_mapper(config.c4)), Filter("c4", c4.c4_filter(config.c4))]
    if kind in config.fineweb.kinds:
        steps.append(Filter("fineweb", fineweb.fineweb_filter(config.fineweb)))
    steps += [
        Filter("word_list", word_list.word_list_filter(words)) for words in config.word_lists if kind in words.kinds
    ]
    if config.classifier is not None and context.weights is not None and kind in config.classifier.kinds:
        quality_filter = classifier.classifier_filter(context.weights, config.classifier.threshold)
        steps.append(Filter("classifier", quality_filter))
    steps.append(Mapper("pii", pii.pii_mapper(config.pii, context.replaced)))
    return steps


def _is_empty(text: str) -> str | None:
    return None if text.strip() else "empty"


def clean_document(
    document: Document, steps: list[CleaningStep],
    on_change: Callable[[str, str, str, str], None] = lambda step, id, before, after: None,
) -> Document | DroppedDocument:  # fmt: skip
    """The document after all steps, or the first reason to drop it. For a document that is kept, `on_change` is
    called with (step, document id, text before, text after) of each change.
    """
    text = document.text
    changes: list[tuple[str, str, str]] = []
    for step in steps:
        if isinstance(step, Mapper):
            after = step.apply(text)
            if after != text:
                changes.append((step.name, text, after))
                text = after
        elif (reason := step.drop_reason(text)) is not None:
            reason = step.name if reason == step.name else f"{step.name}: {reason}"
            return DroppedDocument(reason, document.id, document.text)
    for name, before, after in changes:
        on_change(name, document.id, before, after)
    return Document(text, document.id, license=document.license)


def utf8_bytes(text: str) -> int:
    """UTF-8 length; lone surrogates, which broken input may hold, count 3 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
