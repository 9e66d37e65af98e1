"""`groundup init` for the goals search and classify: the examples of [finetune]."""

import json
from collections.abc import Sequence
from pathlib import Path

from groundup.artifacts.errors import UserError

EXAMPLE_TASKS = {"search": "embedding", "classify": "classification"}
"""Task of fine-tuning by goal."""
EXAMPLE_FILES = {
    "search": (("pairs",), 'JSON lines such as {"query": "how to boil rice", "text": "Rinse the rice, ..."}'),
    "classify": (
        ("labels", "folders"),
        'JSON lines such as {"text": "I liked it", "label": "good"}, or a folder with one folder of text files for each label',
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
        raise UserError("--goal classify: no labelled texts", hint=f"--chat PATH names them: {example}")
    return found


def example_kind(path: Path) -> str | None:
    """pairs or labels by the fields of the first JSON line; folders for a folder of two folders or more; else None."""
    if path.is_dir():
        folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        return "folders" if len(folders) > 1 and not any(path.glob("*.*")) else None
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        line = next((line for line in lines if line.strip()), "")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or "text" not in fields:
        return None
    return "labels" if "label" in fields else "pairs" if "query" in fields else None


def examples_table(goal: str, paths: Sequence[str]) -> str:
    """The table [finetune] of a recipe."""
    comment = ""
    sources = "".join(
        f'\n[[finetune.examples]]\nname = "examples-{number}"\nkind = "{kind}"\n'
        f"path = {json.dumps(path, ensure_ascii=False)}\n"
        for number, (path, kind) in enumerate(find_examples(goal, paths).items(), start=1)
    )
    if not sources:
        comment = "# Pairs are passages of the training text; finetune.examples names JSON lines with query and text.\n"
    return f'[finetune]\n{comment}task = "{EXAMPLE_TASKS[goal]}"\nmethod = "full"\n{sources}'
