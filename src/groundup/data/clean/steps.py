"""Which steps a document of a source goes through, in order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from groundup.data.clean import (
    c4,
    classifier,
    code,
    fineweb,
    gopher,
    language,
    normalise,
    private,
    repetition,
    word_list,
)
from groundup.data.clean.step import Change, Rule, Step
from groundup.data.decontaminate import Index, contamination_rule
from groundup.data.document import Document, Dropped
from groundup.recipe.data import DataSection, Source


@dataclass
class Bench:
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


def steps(section: DataSection, source: Source, bench: Bench) -> list[Step]:
    """Repair first, then what is cheap and drops most, then what changes the text that stays."""
    kind = source.kind
    found: list[Step] = [Change("normalise", normalise.normalise), Rule("empty", _empty)]
    if bench.evaluation is not None:
        index, rule = Index.load(bench.evaluation), section.decontaminate.rule
        found.append(Rule("decontaminate", contamination_rule(index, rule, bench.hits)))
    if not source.steps:
        return found
    if kind in section.code.kinds:
        found.append(Rule("code", code.code_rule(section.code)))
    if kind != "code" and section.language.keep:
        found.append(Rule("language", language.language_rule(section.language, bench.languages)))
    if kind in section.gopher_repetition.kinds:
        found.append(Rule("gopher_repetition", repetition.repetition_rule(section.gopher_repetition)))
    if kind in section.gopher_quality.kinds:
        found.append(Rule("gopher_quality", gopher.quality_rule(section.gopher_quality)))
    if kind in section.c4.kinds:
        found += [Change("c4_lines", c4.line_change(section.c4)), Rule("c4", c4.page_rule(section.c4))]
    if kind in section.fineweb.kinds:
        found.append(Rule("fineweb", fineweb.fineweb_rule(section.fineweb)))
    found += [
        Rule("word_list", word_list.word_list_rule(words))
        for words in section.word_lists
        if kind in words.kinds
    ]
    if section.classifier is not None and bench.weights is not None and kind in section.classifier.kinds:
        found.append(
            Rule("classifier", classifier.classifier_rule(bench.weights, section.classifier.threshold))
        )
    found.append(Change("private", private.private_change(section.private)))
    return found


def _empty(text: str) -> str | None:
    return None if text.strip() else "empty"


def clean(
    document: Document, todo: list[Step], changed: Callable[[str, str, str, str], None]
) -> Document | Dropped:
    """The document after all steps, or why it fell. When it passes, `changed` is told of each change:
    its rule, the document's id, the text before and after it.
    """
    text = document.text
    changes: list[tuple[str, str, str]] = []
    for step in todo:
        if isinstance(step, Change):
            after = step.apply(text)
            if after != text:
                changes.append((step.name, text, after))
                text = after
        elif (reason := step.judge(text)) is not None:
            return Dropped(
                step.name if reason == step.name else f"{step.name}: {reason}", document.id, document.text
            )
    for rule, before, after in changes:
        changed(rule, document.id, before, after)
    return Document(text, document.id)


def size(text: str) -> int:
    """Bytes as UTF-8; lone surrogates, which broken input may hold, count as what replaces them."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
