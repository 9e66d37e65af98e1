"""Questions with known answers, asked by likelihood: which of these would the model rather say?"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.evaluate.bootstrap import bootstrap_interval
from groundup.evaluate.perplexity import ScoredDocument, score, text_document
from groundup.generate import GREEDY, stream_text
from groundup.model import Decoder
from groundup.recipe.evaluate_config import TaskConfig
from groundup.tokenizer import Tokenizer

CONTEXT_TOKENS, CHOICE_TOKENS, CHOICES = 64, 24, 4
"""Of a continuation question: what is read, what is to be recognised, and among how many."""


@dataclass(frozen=True)
class MultipleChoiceItem:
    """Each choice stands behind the question already: a document whose context is not scored."""

    choices: tuple[ScoredDocument, ...]
    answer: int
    document_index: int
    """Number of the document that it was made of."""


def score_choices(model: Decoder, items: Sequence[MultipleChoiceItem]) -> list[bool]:
    """Which questions are answered rightly: the right choice has the highest likelihood per byte of its text.

    Per byte, because a choice is not worse for being longer (as lm-evaluation-harness's acc_norm has it).
    """
    result = score(model, [choice for question in items for choice in question.choices])
    per_byte = iter(
        nats / size for nats, size in zip(result.document_nats, result.document_bytes, strict=True)
    )
    right = []
    for question in items:
        costs = [next(per_byte) for _ in question.choices]
        right.append(costs.index(min(costs)) == question.answer)
    return right


def continuation_items(
    documents: Sequence[ScoredDocument], tokenizer: Tokenizer, count: int, seed: int
) -> list[MultipleChoiceItem]:
    """Passages of held-out documents, each with its true continuation and three of other passages.

    Made of the run's own text, so that every run has them: the documents are cut into passages, and `count`
    of them are drawn, or all. Wrong answers are taken from the same source, so that style gives nothing away.
    """
    chance = random.Random(seed)
    passages: dict[str, list[tuple[int, list[int]]]] = {}
    length = CONTEXT_TOKENS + CHOICE_TOKENS
    for number, document in enumerate(documents):
        ids = list(document.ids[document.num_context_tokens :])
        cut = [(number, ids[begin : begin + length]) for begin in range(0, len(ids) - length + 1, length)]
        passages.setdefault(document.source, []).extend(cut)
    questions = []
    for source, found in passages.items():
        if len(found) < CHOICES:
            continue
        for index, (number, passage) in enumerate(found):
            others = chance.sample(range(len(found) - 1), CHOICES - 1)
            endings = [found[other + (other >= index)][1][CONTEXT_TOKENS:] for other in others]
            answer = chance.randrange(CHOICES)
            endings.insert(answer, passage[CONTEXT_TOKENS:])
            choices = tuple(_continuation_document(tokenizer, passage, ending, source) for ending in endings)
            questions.append(MultipleChoiceItem(choices, answer, number))
    chance.shuffle(questions)
    return questions[:count]


def run_task(task: TaskConfig, model: Decoder, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """Ask every question of the task's file; returns what `summary` does."""
    return TASK_RUNNERS[task.kind](Path(task.path), model, tokenizer, seed)


def summarize_accuracy(
    right: Sequence[bool], documents: Sequence[int], chance: float | None, seed: int
) -> dict[str, Any]:
    """{"items", "accuracy", "interval" (95%, by the bootstrap over documents, or None), "chance"}.

    Args:
        documents: what each question was made of, by number: questions of one document are alike.
        chance: share of right answers when guessing, where that can be said.
    """
    asked: dict[int, float] = {}
    known: dict[int, float] = {}
    for document, is_right in zip(documents, right, strict=True):
        asked[document] = asked.get(document, 0.0) + 1
        known[document] = known.get(document, 0.0) + is_right
    return {
        "items": len(right),
        "accuracy": sum(right) / len(right),
        "interval": bootstrap_interval(list(known.values()), list(asked.values()), seed),
        "chance": chance,
    }


def _run_choices(path: Path, model: Decoder, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """{"question": ..., "choices": [...], "answer": index}: the choice follows the question after a space."""
    questions: list[MultipleChoiceItem] = []
    for where, item in _read_items(path, ("question", "choices", "answer")):
        choices, answer = item["choices"], item["answer"]
        if not (
            isinstance(choices, list) and len(choices) > 1 and all(isinstance(c, str) and c for c in choices)
        ):
            raise UserError(f"{where}: choices = {choices!r}, expected a list of at least two texts")
        if not (isinstance(answer, int) and 0 <= answer < len(choices)):
            raise UserError(f"{where}: answer = {answer!r}, expected 0 to {len(choices) - 1}")
        documents = tuple(_choice_document(tokenizer, item["question"], choice) for choice in choices)
        questions.append(MultipleChoiceItem(documents, answer, len(questions)))
    chance = sum(1 / len(question.choices) for question in questions) / len(questions)
    return summarize_accuracy(score_choices(model, questions), range(len(questions)), chance, seed)


def _run_completions(path: Path, model: Decoder, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """{"prompt": ..., "completion": ...}: right when the likeliest tokens spell the completion."""
    right = []
    for _, item in _read_items(path, ("prompt", "completion")):
        wanted = item["completion"].strip()
        length = len(tokenizer.encode(" " + wanted)) + 2
        said = "".join(stream_text(model, tokenizer, item["prompt"], sampling=GREEDY, max_tokens=length))
        right.append(said.strip().startswith(wanted))
    return summarize_accuracy(right, range(len(right)), None, seed)


TASK_RUNNERS: dict[str, Callable[[Path, Decoder, Tokenizer, int], dict[str, Any]]] = {
    "multiple_choice": _run_choices,
    "completion": _run_completions,
}


def _read_items(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a task file with where they stand. Raises UserError, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint="expected a file of JSON lines") from None
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path}: no questions", hint="one JSON object a line, with " + ", ".join(keys))
    for where, line in numbered:
        try:
            item = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}") from None
        if not isinstance(item, dict) or any(key not in item for key in keys):
            raise UserError(f"{where}: expected an object with {', '.join(keys)}")
        for key in keys:
            if key not in ("choices", "answer") and not (isinstance(item[key], str) and item[key].strip()):
                raise UserError(f"{where}: {key} = {item[key]!r}, expected some text")
        yield where, item


def _choice_document(tokenizer: Tokenizer, question: str, choice: str) -> ScoredDocument:
    """The choice behind the question, cut where the question's own tokens end."""
    question = question.rstrip()
    before, whole = text_document(tokenizer, question), text_document(tokenizer, f"{question} {choice}")
    context = min(len(before.ids), len(whole.ids) - 1)
    return ScoredDocument(whole.ids, len(f" {choice}".encode()), num_context_tokens=context)


def _continuation_document(
    tokenizer: Tokenizer, passage: list[int], ending: list[int], source: str
) -> ScoredDocument:
    size = len(tokenizer.decode(ending).encode())
    return ScoredDocument(
        [*passage[:CONTEXT_TOKENS], *ending], size, source, num_context_tokens=CONTEXT_TOKENS
    )
