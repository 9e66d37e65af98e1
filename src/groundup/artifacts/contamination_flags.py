"""What the data stage found of evaluation sets in the training text of a run, as flags beside scores."""

from collections import Counter
from pathlib import Path

from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.manifest import Manifest

NOT_CHECKED = "not checked"
HELD_OUT_TEXT = "held-out text"
CONTINUATION_TASK = "true continuation"
"""Name of the multiple-choice task made of the held-out text."""
OF_HELD_OUT_TEXT = frozenset([HELD_OUT_TEXT, CONTINUATION_TASK])
"""Scores that need no flag: the data stage keeps this text apart itself."""


def contamination_flags(data: Path) -> dict[str, str]:
    """What a data stage found, of each of data.decontaminate.evaluation_sets: "clean", or how many documents were dropped.

    A set stands for the task of its name; of other tasks say `NOT_CHECKED`.

    Args:
        data: the stage's folder; without a manifest nothing was checked.
    """
    manifest = Manifest.read(data) if data.is_dir() else None
    section = (manifest.sections.get("data") or {}) if manifest else {}
    flags = {each["name"]: "clean" for each in section.get("decontaminate", {}).get("evaluation_sets", ())}
    dropped: dict[str, Counter[str]] = {}
    for row in read_jsonl(data / "contaminated.jsonl") if flags else ():
        name, _, item = row["item"].partition("/")
        dropped.setdefault(name, Counter())[item] += 1
    for name, items in dropped.items():
        flags[name] = f"cleaned of {len(items):,} items, {items.total():,} documents dropped"
    return flags
