"""Tasks with known answers: multiple choice by likelihood, and completions by greedy decoding."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import parse_json, shorten
from groundup.evaluate.bootstrap import bootstrap_interval
from groundup.evaluate.likelihood import ScoredDocument, continuation_nats, score_documents, text_document
from groundup.generate import GREEDY, decode_output, encode_prompt, generate
from groundup.model import Decoder
from groundup.recipe.evaluate_config import TaskConfig, TaskKind
from groundup.tokenizer import Tokenizer

CONTEXT_TOKENS, CHOICE_TOKENS, CHOICES = 64, 24, 4
"""Of a continuation item: tokens of context, tokens of each choice, and number of choices."""


@dataclass(frozen=True)
class MultipleChoiceItem:
    """A question with its choices.

    Attributes:
        choices: each a document whose context is the question.
        answer: index of the correct choice.
        document_index: source document; items of one document are resampled together by the bootstrap.
    """

    choices: tuple[ScoredDocument, ...]
    answer: int
    document_index: int


def score_choices(model: Decoder, items: Sequence[MultipleChoiceItem]) -> list[bool]:
    """Whether the correct choice of each item has the highest likelihood per byte.

    Normalized by bytes so that length does not matter: acc_norm of lm-evaluation-harness. A question is read once for all of
    its choices, where it fits into the context with them.
    """
    correct = []
    for item in items:
        nats = _choice_nats(model, item.choices)
        losses = [each / choice.bytes for each, choice in zip(nats, item.choices, strict=True)]
        correct.append(losses.index(min(losses)) == item.answer)
    return correct


def _choice_nats(model: Decoder, choices: Sequence[ScoredDocument]) -> Sequence[float]:
    """Negative log likelihood of each choice, in nats."""
    contexts = {tuple(choice.ids[: choice.num_context_tokens]) for choice in choices}
    longest = max(len(choice.ids) for choice in choices)
    if not isinstance(model, Decoder) or len(contexts) > 1 or longest > model.config.cached_context_length:
        return score_documents(model, choices).document_nats
    context = contexts.pop()
    return continuation_nats(model, context, [choice.ids[len(context) :] for choice in choices])


def continuation_items(
    documents: Sequence[ScoredDocument], tokenizer: Tokenizer, count: int, seed: int
) -> list[MultipleChoiceItem]:
    """`count` random passages of held-out documents, each with its true continuation and three of other passages.

    Distractors come from the same source, so that style is no clue. Fewer items where there is less text.
    """
    generator = random.Random(seed)
    passages: dict[str, list[tuple[int, list[int]]]] = {}
    length = CONTEXT_TOKENS + CHOICE_TOKENS
    for document_index, document in enumerate(documents):
        ids = list(document.ids[document.num_context_tokens :])
        begins = range(0, len(ids) - length + 1, length)
        passages.setdefault(document.source, []).extend(
            (document_index, ids[begin : begin + length]) for begin in begins
        )
    items = []
    for source, candidates in passages.items():
        if len(candidates) < CHOICES:
            continue
        for index, (document_index, passage) in enumerate(candidates):
            others = generator.sample(range(len(candidates) - 1), CHOICES - 1)
            endings = [candidates[other + (other >= index)][1][CONTEXT_TOKENS:] for other in others]
            answer = generator.randrange(CHOICES)
            endings.insert(answer, passage[CONTEXT_TOKENS:])
            choices = tuple(_continuation_document(tokenizer, passage, ending, source) for ending in endings)
            items.append(MultipleChoiceItem(choices, answer, document_index))
    generator.shuffle(items)
    return items[:count]


def run_task(task: TaskConfig, model: Decoder, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """Run every item of the task's file; returns `summarize_accuracy`."""
    return TASK_RUNNERS[task.kind](Path(task.path), model, tokenizer, seed, task.apply_chat_template)


def summarize_accuracy(
    correct: Sequence[bool], documents: Sequence[int], chance: float | None, seed: int
) -> dict[str, Any]:
    """{"items", "accuracy", "interval" (95%, bootstrap over documents, or None), "chance"}.

    Args:
        documents: index of the source document of each item.
        chance: expected accuracy of random guessing, or None.
    """
    num_items: dict[int, float] = {}
    num_correct: dict[int, float] = {}
    for document, is_correct in zip(documents, correct, strict=True):
        num_items[document] = num_items.get(document, 0.0) + 1
        num_correct[document] = num_correct.get(document, 0.0) + is_correct
    return {
        "items": len(correct),
        "accuracy": sum(correct) / len(correct),
        "interval": bootstrap_interval(list(num_correct.values()), list(num_items.values()), seed),
        "chance": chance,
    }


def task_of_file(path: Path, *, apply_chat_template: bool = False) -> TaskConfig:
    """The task in a file, whose kind its first line says. Raises UserError for a line of neither kind."""
    location, item = next(_read_items(path, ()))
    for kind, keys in TASK_KEYS.items():
        if all(key in item for key in keys):
            return TaskConfig(name=path.stem, kind=kind, path=str(path), apply_chat_template=apply_chat_template)
    expected = "; or ".join(", ".join(keys) for keys in TASK_KEYS.values())
    raise UserError(f"{location}: fields {', '.join(item) or 'none'}", hint=f"expected {expected}")


def _run_choices(path: Path, model: Decoder, tokenizer: Tokenizer, seed: int, as_chat: bool) -> dict[str, Any]:
    """{"question": ..., "choices": [...], "answer": index}: question + " " + choice is scored, or the choice as an answer."""
    items: list[MultipleChoiceItem] = []
    for location, entry in _read_items(path, TASK_KEYS["multiple_choice"]):
        choices, answer = entry["choices"], entry["answer"]
        if not (isinstance(choices, list) and len(choices) > 1 and all(isinstance(c, str) and c for c in choices)):
            raise UserError(f"{location}: choices = {shorten(choices)}, expected a list of at least two texts")
        if not (type(answer) is int and 0 <= answer < len(choices)):
            raise UserError(f"{location}: answer = {shorten(answer)}, expected 0 to {len(choices) - 1}")
        make = _answer_document if as_chat else _choice_document
        documents = tuple(make(tokenizer, entry["question"], choice) for choice in choices)
        items.append(MultipleChoiceItem(documents, answer, len(items)))
    chance = sum(1 / len(item.choices) for item in items) / len(items)
    return summarize_accuracy(score_choices(model, items), range(len(items)), chance, seed)


def _run_completions(path: Path, model: Decoder, tokenizer: Tokenizer, seed: int, as_chat: bool) -> dict[str, Any]:
    """{"prompt": ..., "completion": ...}: correct when greedy decoding begins with the completion."""
    correct = []
    for _, item in _read_items(path, TASK_KEYS["completion"]):
        expected = item["completion"].strip()
        prompt = item["prompt"]
        prompt_ids = _chat_ids(tokenizer, prompt) if as_chat else encode_prompt(model, tokenizer, prompt)
        length = len(tokenizer.encode(" " + expected)) + 2
        ids = generate(model, prompt_ids, sampling=GREEDY, max_tokens=length, stop_ids=tokenizer.stop_ids)
        correct.append(decode_output(tokenizer, ids).strip().startswith(expected))
    return summarize_accuracy(correct, range(len(correct)), None, seed)


TASK_KEYS: dict[TaskKind, tuple[str, ...]] = {
    "multiple_choice": ("question", "choices", "answer"),
    "completion": ("prompt", "completion"),
}
TASK_RUNNERS: dict[TaskKind, Callable[[Path, Decoder, Tokenizer, int, bool], dict[str, Any]]] = {
    "multiple_choice": _run_choices,
    "completion": _run_completions,
}


def _read_items(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line number, object) for each line of a task file. Raises UserError, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON has other line breaks inside of texts
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint="expected a JSON Lines file") from None
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path}: no items", hint="one JSON object per line, with " + ", ".join(keys))
    for location, line in numbered:
        item = parse_json(line, location)
        if not isinstance(item, dict) or any(key not in item for key in keys):
            raise UserError(f"{location}: expected an object with {', '.join(keys)}")
        for key in keys:
            if key not in ("choices", "answer") and not (isinstance(item[key], str) and item[key].strip()):
                raise UserError(f"{location}: {key} = {shorten(item[key])}, expected text")
        yield location, item


def _choice_document(tokenizer: Tokenizer, question: str, choice: str) -> ScoredDocument:
    """question + " " + choice, of which the tokens of the question are context."""
    question = question.rstrip()
    prompt, full = text_document(tokenizer, question), text_document(tokenizer, f"{question} {choice}")
    num_context_tokens = min(len(prompt.ids), len(full.ids) - 1)
    return ScoredDocument(full.ids, len(f" {choice}".encode()), num_context_tokens=num_context_tokens)


def _chat_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return tokenizer.render_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)


def _answer_document(tokenizer: Tokenizer, question: str, choice: str) -> ScoredDocument:
    """The choice as the answer to the question in the chat template."""
    prompt = _chat_ids(tokenizer, question)
    return ScoredDocument([*prompt, *tokenizer.encode(choice)], len(choice.encode()), num_context_tokens=len(prompt))


def _continuation_document(tokenizer: Tokenizer, passage: list[int], ending: list[int], source: str) -> ScoredDocument:
    size = len(tokenizer.decode(ending).encode())
    return ScoredDocument([*passage[:CONTEXT_TOKENS], *ending], size, source, num_context_tokens=CONTEXT_TOKENS)
