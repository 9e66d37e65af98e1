"""CORE of DCLM (Li et al. 2024, appendix G): the mean over 22 tasks of the accuracy above chance.

The tasks come as a folder, the "evaluation bundle" of DCLM: `core.yaml` names them with their number of solved examples,
`eval_meta_data.csv` has their accuracy by chance, `eval_data` their items. Three kinds: multiple choice, schema (one
continuation of several contexts) and language modeling (the continuation must be what greedy decoding gives). A choice is
scored by the mean log-likelihood of its tokens.
"""

import csv
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import parse_json
from groundup.artifacts.progress import Progress
from groundup.evaluate.continuations import Pair, iter_continuation_scores
from groundup.evaluate.intervals import share_interval
from groundup.generate import encode_prompt
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

Item = dict[str, Any]
EXAMPLE_SEED = 1234
"""Solved examples of item i are drawn with seed EXAMPLE_SEED + i, as in nanochat."""


@dataclass(frozen=True)
class CoreTask:
    """`chance` is the accuracy of guessing; `delimiter` stands between a question and its answer."""

    label: str
    kind: str
    num_fewshot: int
    delimiter: str
    path: Path
    chance: float


def read_core_tasks(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle. Raises UserError for a folder that is none."""
    try:
        listed = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
        with (folder / "eval_meta_data.csv").open(encoding="utf-8", newline="") as file:
            chances = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)}
        tasks = [
            CoreTask(
                each["label"], each["icl_task_type"], each["num_fewshot"][0], each.get("continuation_delimiter", " "),
                folder / "eval_data" / each["dataset_uri"], chances[each["label"]],
            )
            for each in listed
        ]  # fmt: skip
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{folder}: no evaluation bundle: {error!r}",
            hint="a folder with core.yaml, eval_meta_data.csv and eval_data",
        ) from None
    for task in tasks:
        if task.kind not in KINDS:
            raise UserError(f"{folder}: task {task.label} of kind {task.kind}, expected one of {', '.join(KINDS)}")
        if not task.path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder}: task {task.label}: {task.path}: outside of the folder")
    return tasks


def score_core(
    model: Decoder, tokenizer: Tokenizer, folder: Path, progress: Progress, limit: int | None = None
) -> dict[str, Any]:
    """{"core", "core_interval", "tasks": {label: {"items", "accuracy", "interval", "centered"}}}.

    Centered: (accuracy - chance) / (1 - chance). The interval of CORE takes the tasks as independent.

    Args:
        limit: first items of each task only.
    """
    found: dict[str, dict[str, Any]] = {}
    variance = 0.0
    for task in read_core_tasks(folder):
        correct = _score_task(model, tokenizer, task, progress, limit)
        accuracy, interval = sum(correct) / len(correct), share_interval(correct)
        found[task.label] = {
            "items": len(correct), "accuracy": accuracy, "interval": interval,
            "centered": (accuracy - task.chance) / (1 - task.chance),
        }  # fmt: skip
        variance += ((interval[1] - interval[0]) / 2 / (1 - task.chance)) ** 2
    core = sum(row["centered"] for row in found.values()) / len(found)
    half = math.sqrt(variance) / len(found)
    return {"core": core, "core_interval": [core - half, core + half], "tasks": found}


def _score_task(
    model: Decoder, tokenizer: Tokenizer, task: CoreTask, progress: Progress, limit: int | None
) -> list[bool]:
    """Whether each item is right."""
    items = _read_items(task)
    pairs: list[Pair] = []
    numbers: list[range] = []
    for index, item in enumerate(items[:limit]):
        others = [number for number in range(len(items)) if number != index]
        drawn = random.Random(EXAMPLE_SEED + index).sample(others, min(task.num_fewshot, len(others)))
        found = list(KINDS[task.kind](model, tokenizer, item, [items[number] for number in drawn], task.delimiter))
        numbers.append(range(len(pairs), len(pairs) + len(found)))
        pairs += found
    scores: dict[int, Any] = {}
    with progress.task(task.label, total=len(pairs), unit="continuations") as bar:
        for batch in iter_continuation_scores(model, pairs):
            scores |= batch
            bar.advance(len(batch))
    correct = []
    for item, choices in zip(items, numbers, strict=False):
        if task.kind == "language_modeling":
            correct.append(scores[choices[0]].is_greedy)
            continue
        means = [scores[number].logprob / len(pairs[number][1]) for number in choices]
        correct.append(means.index(max(means)) == item["gold"])
    return correct


def _read_items(task: CoreTask) -> list[Item]:
    try:
        lines = task.path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{task.label}: {task.path} cannot be read: {error}") from None
    items = [parse_json(line, f"{task.path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not items or any(not isinstance(item, dict) or not FIELDS[task.kind] <= item.keys() for item in items):
        raise UserError(f"{task.path}: expected a line for each item, with {', '.join(sorted(FIELDS[task.kind]))}")
    return items


def _choices(
    model: Decoder, tokenizer: Tokenizer, item: Item, examples: Sequence[Item], delimiter: str
) -> Iterator[Pair]:
    """What the texts of the choices have in common at their beginning is context."""
    before = "".join(f"{each['query']}{delimiter}{each['choices'][each['gold']]}\n\n" for each in examples)
    texts = [f"{before}{item['query']}{delimiter}{choice}" for choice in item["choices"]]
    rows = [encode_prompt(model, tokenizer, text) for text in texts]
    shared = _common_length(rows)
    for row in rows:
        start = max(1, min(shared, len(row) - 1))
        yield row[:start], row[start:]


def _schema(
    model: Decoder, tokenizer: Tokenizer, item: Item, examples: Sequence[Item], delimiter: str
) -> Iterator[Pair]:
    """What the texts have in common at their end is the continuation."""
    before = "".join(
        f"{each['context_options'][each['gold']]}{delimiter}{each['continuation']}\n\n" for each in examples
    )
    texts = [f"{before}{context}{delimiter}{item['continuation']}" for context in item["context_options"]]
    rows = [encode_prompt(model, tokenizer, text) for text in texts]
    shared = max(1, _common_length([row[::-1] for row in rows]))
    for row in rows:
        start = max(1, len(row) - shared)
        yield row[:start], row[start:]


def _language_modeling(
    model: Decoder, tokenizer: Tokenizer, item: Item, examples: Sequence[Item], delimiter: str
) -> Iterator[Pair]:
    before = "".join(f"{each['context'].strip()}{delimiter}{each['continuation']}\n\n" for each in examples)
    context = f"{before}{item['context'].strip()}{delimiter}"
    prompt = encode_prompt(model, tokenizer, context.strip())
    row = encode_prompt(model, tokenizer, context + item["continuation"])
    start = max(1, min(len(prompt), len(row) - 1))
    yield row[:start], row[start:]


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """Number of equal tokens at the beginning of all."""
    return next(
        (index for index, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows))
    )


KINDS: dict[str, Callable[..., Iterator[Pair]]] = {
    "multiple_choice": _choices, "schema": _schema, "language_modeling": _language_modeling
}  # fmt: skip
FIELDS = {
    "multiple_choice": {"query", "choices", "gold"}, "schema": {"context_options", "continuation", "gold"},
    "language_modeling": {"context", "continuation"},
}  # fmt: skip
