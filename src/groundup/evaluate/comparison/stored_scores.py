"""Scores of items that the stage 05-scores of a run stored, and which tasks its training text was searched for."""

from collections import Counter
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.manifest import Manifest
from groundup.evaluate.comparison.item_scores import ItemScore, read_item_scores
from groundup.stages import ITEM_SCORES_FILE, STAGE_FOLDERS

NOT_CHECKED = "not checked"


def stored_scores(run: Path) -> list[ItemScore]:
    """The item scores of a run. Raises UserError for a folder without them."""
    path = run / STAGE_FOLDERS["scores"] / ITEM_SCORES_FILE
    if not path.is_file():
        raise UserError(
            f"{run}: no {STAGE_FOLDERS['scores']}/{ITEM_SCORES_FILE}",
            hint="a run with [evaluate] stores its scores; --text FILE or --task FILE scores any model now",
        )
    return read_item_scores(path)


def contamination(path: Path, task: str) -> str:
    """What the data stage of a run found of a task in its text: "not checked", or how many documents were dropped for it.

    data.decontaminate.evaluation_sets name what is searched for; a set stands for the task of its name.
    """
    folder = path / STAGE_FOLDERS["data"]
    manifest = Manifest.read(folder) if folder.is_dir() else None
    section = (manifest.sections.get("data") or {}) if manifest else {}
    sets = [each["name"] for each in section.get("decontaminate", {}).get("evaluation_sets", ())]
    if task not in sets:
        return NOT_CHECKED
    dropped = Counter(
        row["item"].split("/", 1)[1]
        for row in read_jsonl(folder / "contaminated.jsonl")
        if row["item"].startswith(f"{task}/")
    )
    if not dropped:
        return "clean"
    return f"cleaned of {len(dropped):,} items, {dropped.total():,} documents dropped"
