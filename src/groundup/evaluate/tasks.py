"""Tasks with known answers: multiple choice by likelihood, and completions by greedy decoding."""

import random
import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from groundup.data.task_files import read_completions, read_questions
from groundup.evaluate.comparison.item_scores import ItemScore, item_key
from groundup.evaluate.continuations import score_continuations
from groundup.evaluate.intervals import share_interval
from groundup.evaluate.likelihood import ScoredDocument
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
        lengths: characters of each choice.
        answer: index of the correct choice.
        cluster: equal for items that are not independent: passages of one document, copies of a question.
    """

    choices: tuple[ScoredDocument, ...]
    lengths: tuple[int, ...]
    answer: int
    cluster: Hashable


@dataclass(frozen=True)
class ChoiceScores:
    """Whether the right choice of each item is the likeliest: as a whole, and per character (acc and acc_norm of lm-eval)."""

    correct: list[bool]
    correct_norm: list[bool]


def score_choices(model: Decoder, items: Sequence[MultipleChoiceItem]) -> ChoiceScores:
    """The likeliest choice of each item, by two measures: the total, and the mean over characters, which helps long choices.

    Both as in lm-evaluation-harness (Gao et al. 2021).
    """
    scores = ChoiceScores([], [])
    pairs = [
        (choice.ids[: choice.num_context_tokens], choice.ids[choice.num_context_tokens :])
        for item in items
        for choice in item.choices
    ]
    found = iter(score_continuations(model, pairs))
    for item in items:
        nats = [-next(found).logprob for _ in item.choices]
        means = [each / length for each, length in zip(nats, item.lengths, strict=True)]
        scores.correct.append(nats.index(min(nats)) == item.answer)
        scores.correct_norm.append(means.index(min(means)) == item.answer)
    return scores


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
            texts = [tokenizer.decode(ending) for ending in endings]
            choices = tuple(
                ScoredDocument(
                    [*passage[:CONTEXT_TOKENS], *ending], len(text.encode()), source, num_context_tokens=CONTEXT_TOKENS
                )
                for ending, text in zip(endings, texts, strict=True)
            )
            items.append(MultipleChoiceItem(choices, tuple(map(len, texts)), answer, document_index))
    generator.shuffle(items)
    return items[:count]


@dataclass(frozen=True)
class TaskResult:
    """`summary` is that of `summarize_choices`, or `summarize_accuracy` of completions; `items` the score of each item."""

    summary: dict[str, Any]
    items: list[ItemScore]


def run_task(task: TaskConfig, model: Decoder, tokenizer: Tokenizer) -> dict[str, Any]:
    """The summary of `score_task`."""
    return score_task(task, model, tokenizer).summary


def score_task(task: TaskConfig, model: Decoder, tokenizer: Tokenizer) -> TaskResult:
    """Run every item of the task's file."""
    return TASK_RUNNERS[task.kind](task, model, tokenizer)


def choice_result(
    name: str, items: Sequence[MultipleChoiceItem], scores: ChoiceScores, keys: Sequence[Hashable]
) -> TaskResult:
    """Summary and item scores of a multiple-choice task, whose items have these contents."""
    rows = [
        ItemScore(name, metric, item_key(key), float(right), cluster=item_key(item.cluster))
        for metric, correct in (("accuracy", scores.correct), ("accuracy_norm", scores.correct_norm))
        for key, item, right in zip(keys, items, correct, strict=True)
    ]
    return TaskResult(summarize_choices(items, scores), rows)


def summarize_accuracy(correct: Sequence[bool], clusters: Sequence[Hashable], chance: float | None) -> dict[str, Any]:
    """{"items", "accuracy", "interval" (95%), "chance"}.

    Args:
        clusters: of each item; see `MultipleChoiceItem`.
        chance: expected accuracy of random guessing, or None.
    """
    interval = share_interval(correct, clusters)
    return {"items": len(correct), "accuracy": sum(correct) / len(correct), "interval": interval, "chance": chance}


def summarize_choices(items: Sequence[MultipleChoiceItem], scores: ChoiceScores) -> dict[str, Any]:
    """`summarize_accuracy`, and {"accuracy_norm", "interval_norm"}: by the likelihood per character."""
    clusters = [item.cluster for item in items]
    chance = sum(1 / len(item.choices) for item in items) / len(items)
    norm = summarize_accuracy(scores.correct_norm, clusters, chance)
    return summarize_accuracy(scores.correct, clusters, chance) | {
        "accuracy_norm": norm["accuracy"],
        "interval_norm": norm["interval"],
    }


def _run_choices(task: TaskConfig, model: Decoder, tokenizer: Tokenizer) -> TaskResult:
    """Question + delimiter + choice is scored, or the choice as an answer in the chat template."""
    items, entries = [], read_questions(Path(task.path))
    for entry in entries:
        make = _answer_document if task.apply_chat_template else _choice_document
        documents = tuple(make(model, tokenizer, entry.question, choice, task.delimiter) for choice in entry.choices)
        items.append(MultipleChoiceItem(documents, tuple(map(len, entry.choices)), entry.answer, entry.cluster))
    return choice_result(task.name, items, score_choices(model, items), list(map(astuple, entries)))


def _run_completions(task: TaskConfig, model: Decoder, tokenizer: Tokenizer) -> TaskResult:
    """Correct when greedy decoding begins with the completion, as whole words; a long prompt keeps its end."""
    entries, correct = read_completions(Path(task.path)), []
    for entry in entries:
        ids = _chat_ids(tokenizer, entry.prompt) if task.apply_chat_template else None
        ids = ids or encode_prompt(model, tokenizer, entry.prompt)
        length = len(tokenizer.encode(" " + entry.completion)) + 2
        ids = ids[-max(1, model.config.cached_context_length - length) :]
        found = generate(model, ids, sampling=GREEDY, max_tokens=length, stop_ids=tokenizer.stop_ids)
        correct.append(begins_with(decode_output(tokenizer, found).strip(), entry.completion))
    clusters = [entry.cluster for entry in entries]
    rows = [
        ItemScore(task.name, "accuracy", item_key(cluster), float(right), cluster=item_key(cluster))
        for cluster, right in zip(clusters, correct, strict=True)
    ]
    return TaskResult(summarize_accuracy(correct, clusters, None), rows)


TASK_RUNNERS: dict[TaskKind, Callable[[TaskConfig, Decoder, Tokenizer], TaskResult]] = {
    "multiple_choice": _run_choices,
    "completion": _run_completions,
}


def begins_with(text: str, expected: str) -> bool:
    """Whether `text` begins with `expected` and neither a word nor a number goes on after it.

    In scripts without spaces between words, such as Chinese, Japanese and Thai, a word may end anywhere.

    >>> begins_with("42.5 metres", "42"), begins_with("42. Then", "42"), begins_with("the form", "t")
    (False, True, False)
    """
    if not text.startswith(expected):
        return False
    rest = text[len(expected) :]
    if re.match(r"[.,]?\d", rest) and expected[-1].isdigit():
        return False
    return not (_is_of_spaced_word(rest[:1]) and _is_of_spaced_word(expected[-1]))


def _is_of_spaced_word(character: str) -> bool:
    return character.isalnum() and not re.match("CJK|HIRAGANA|KATAKANA|THAI|LAO|KHMER|MYANMAR", _name(character))


def _name(character: str) -> str:
    return unicodedata.name(character, "")


def _choice_document(
    model: Decoder, tokenizer: Tokenizer, question: str, choice: str, delimiter: str
) -> ScoredDocument:
    """Question + delimiter + choice, of which the tokens of the question are context; spaces that end it go to the choice.

    With the special tokens that the tokenizer adds to every text, as in generation and in lm-evaluation-harness.
    """
    context = question.rstrip()
    continuation = (question[len(context) :] or delimiter) + choice
    prompt, full = encode_prompt(model, tokenizer, context), encode_prompt(model, tokenizer, context + continuation)
    return ScoredDocument(full, len(continuation.encode()), num_context_tokens=max(1, min(len(prompt), len(full) - 1)))


def _chat_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return tokenizer.render_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)


def _answer_document(
    model: Decoder, tokenizer: Tokenizer, question: str, choice: str, delimiter: str
) -> ScoredDocument:
    """The choice as the answer to the question in the chat template."""
    prompt = _chat_ids(tokenizer, question)
    return ScoredDocument([*prompt, *tokenizer.encode(choice)], len(choice.encode()), num_context_tokens=len(prompt))
