"""Scores of items that the stage 05-scores of a run stored."""

from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.evaluate.comparison.item_scores import ItemScore, read_item_scores
from groundup.stages import ITEM_SCORES_FILE, STAGE_FOLDERS


def stored_scores(run: Path) -> list[ItemScore]:
    """The item scores of a run. Raises UserError for a folder without them."""
    path = run / STAGE_FOLDERS["scores"] / ITEM_SCORES_FILE
    if not path.is_file():
        raise UserError(
            f"{run}: no {STAGE_FOLDERS['scores']}/{ITEM_SCORES_FILE}",
            hint="a run with [evaluate] stores its scores; --text FILE or --task FILE scores any model now",
        )
    return read_item_scores(path)
