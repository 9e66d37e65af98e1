"""`groundup init` for the goals search and classify: the examples of [finetune]."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.plan.derive import Plan, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.time.training_speed import TrainingSpeed, without_logits

SEARCH_MODEL = "hidden_size = 512\nnum_layers = 1\nnum_heads = 8\ninit_std = 0.01\n"
SEARCH_TRAIN = """\
# One small step: on a CPU, masked language modelling makes search worse than none. The hours go to [finetune].
optimizer = "adamw"
steps = 1
learning_rate = 1e-5
"""
"""Knobs of an encoder for search on a CPU, where pretraining is too short to help (measured in the lab book)."""
SEARCH_LEARNING_RATE, SEARCH_BATCH_TOKENS, MAX_SEARCH_EPOCHS, MIN_SEARCH_EPOCHS = 2e-4, 8_192, 3.0, 0.05
PASSAGE_TOKENS = 128

EXAMPLE_TASKS = {"search": "embedding", "classify": "classification"}
"""Task of fine-tuning by goal."""
HEAD_CHARACTERS = 1 << 16
"""A first record that is longer is not looked at."""
EXAMPLE_FILES = {
    "search": (("pairs",), 'CSV or JSON lines such as {"query": "how to boil rice", "text": "Rinse the rice, ..."}'),
    "classify": (
        ("labels", "folders"),
        'CSV or JSON lines such as {"text": "I liked it", "label": "good"}, or a folder with one folder of text files '
        "for each label",
    ),
}
"""Kinds of examples by goal, and what they look like."""


def find_examples(goal: str, paths: Sequence[str]) -> dict[str, str]:
    """Path to kind of the files and folders of `paths` that hold examples for `goal`.

    Raises UserError for classify if there are none.
    """
    wanted, example = EXAMPLE_FILES[goal]
    kinds = {path: example_kind(Path(path).expanduser()) for path in paths}
    found = {path: kind for path, kind in kinds.items() if kind is not None and kind in wanted}
    if goal == "classify" and not found:
        raise UserError(
            "--goal classify: no labelled texts", hint=f"--chat PATH names them: {example}{describe_fields(paths)}"
        )
    return found


def example_kind(path: Path) -> str | None:
    """pairs or labels by the fields of the first record; folders for a folder of two folders or more; else None."""
    if path.is_dir():
        folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        return "folders" if len(folders) > 1 and not any(path.glob("*.*")) else None
    fields = first_fields(path)
    if "text" not in fields:
        return None
    return "labels" if "label" in fields else "pairs" if "query" in fields else None


def search_knobs(plan: Plan, tokens: int | None, hours: float) -> str:
    """Knobs of [finetune] for a search whose model is not pretrained: passages of the text are read for `hours`."""
    knobs = f"learning_rate = {SEARCH_LEARNING_RATE:g}\n"
    if tokens is None or (plan.recipe.finetune and plan.recipe.finetune.examples):
        return knobs
    budget, config = plan.recipe.budget, resolved_model_config(plan.recipe)
    speed = TrainingSpeed(device_spec(budget.hardware), budget.devices, budget.relative_speed)
    seconds = speed.training_seconds(without_logits(config), PASSAGE_TOKENS, tokens, SEARCH_BATCH_TOKENS)
    epochs = min(MAX_SEARCH_EPOCHS, max(MIN_SEARCH_EPOCHS, 3600 * hours / seconds))
    return f"{knobs}batch_tokens = {SEARCH_BATCH_TOKENS}\nepochs = {epochs:.2g}\n"


def describe_fields(paths: Sequence[str]) -> str:
    """Which fields the files have instead."""
    fields = {path: first_fields(Path(path).expanduser()) for path in paths}
    return "".join(f"; {path} has {', '.join(names)}" for path, names in fields.items() if names)


def first_fields(path: Path) -> list[str]:
    """Fields of the first record of a file of JSON, or the columns of a CSV or TSV file in lower case; else none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        head = stream.read(HEAD_CHARACTERS).lstrip()
    if path.suffix.lower() in (".csv", ".tsv"):
        return [column.strip(' "').lower() for column in re.split(r"[,;\t|]", head.partition("\n")[0].strip())]
    try:
        record, _ = json.JSONDecoder().raw_decode(head.removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        return []
    return list(record) if isinstance(record, dict) else []


def examples_table(goal: str, paths: Sequence[str]) -> str:
    """The table [finetune] of a recipe."""
    comment = ""
    sources = "".join(
        f'\n[[finetune.examples]]\nname = "examples-{number}"\nkind = "{kind}"\n'
        f"path = {json.dumps(path, ensure_ascii=False)}\n"
        for number, (path, kind) in enumerate(find_examples(goal, paths).items(), start=1)
    )
    if not sources:
        comment = (
            "# Pairs are passages of the training text; finetune.examples names JSON or CSV with query and text.\n"
        )
    return f'[finetune]\n{comment}task = "{EXAMPLE_TASKS[goal]}"\nmethod = "full"\n{sources}'
