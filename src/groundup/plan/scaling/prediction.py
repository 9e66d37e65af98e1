"""Loss prediction for a recipe, from the scaling law of its ladder of small models."""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.json_file import read_json_file
from groundup.plan.derive import Plan
from groundup.plan.scaling.loss_law import LossLaw, loss_law_of_ladder
from groundup.plan.scaling.scaling_law import ScalingLaw
from groundup.recipe import Recipe

SCALING_LAW_FILE = "scaling_law.json"
RATIO_TOLERANCE = 0.25
"""Maximum relative difference in tokens per parameter between ladder and plan: sizes are discrete. It changes the loss by
about 1% at the exponents of Hoffmann et al. 2022."""

MODEL_SIZE_KNOBS = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
DERIVED_FROM_SIZE = ("tokens", "steps", "warmup_steps", "evaluate_every")
"""Knobs of [train] that depend on model size: the only ones that differ between the rungs of a ladder."""

HINT = "run groundup ladder again"


class _Ladder(TypedDict):
    scaling_law: ScalingLaw
    tokens_per_parameter: Annotated[float, Field(gt=0)]
    signature: str
    points: list[Any]


def recipe_signature(recipe: Recipe) -> dict[str, Any]:
    """The knobs that must be equal for one scaling law to hold for two recipes: all but size and what depends on it."""
    values = recipe.model_dump(mode="json", include={"data", "tokenizer", "model", "train"}, exclude_none=True)
    for section, names in (("model", MODEL_SIZE_KNOBS), ("train", DERIVED_FROM_SIZE)):
        values[section] = {name: value for name, value in values.get(section, {}).items() if name not in names}
    return values


def predict_loss(recipe: Recipe, plan: Plan, folder: Path) -> dict[str, Any] | None:
    """Predicted loss (bits per byte), low and high (90% interval), and the number of rungs.

    None if `folder` has no ladder, or the ladder of another recipe or ratio of tokens to parameters.
    Raises UserError if its file is invalid.
    """
    ladder = _read_ladder(recipe, plan, folder)
    if ladder is None:
        return None
    assert plan.parameters is not None
    path = folder / SCALING_LAW_FILE
    try:
        predicted = ladder["scaling_law"].predict(plan.parameters.total)
        if not all(map(math.isfinite, predicted.values())):
            raise ValueError("a value that is not finite")
    except (ValueError, LookupError, ArithmeticError) as error:
        raise UserError(f"{path}: invalid scaling law: {error}", hint=HINT) from None
    return predicted | {"rungs": len(ladder["points"])}


def ladder_loss_law(recipe: Recipe, plan: Plan, folder: Path) -> LossLaw | None:
    """The law of the recipe's ladder in `folder`, over parameters and tokens; None as for `predict_loss`."""
    ladder = _read_ladder(recipe, plan, folder)
    return None if ladder is None else loss_law_of_ladder(ladder["scaling_law"], ladder["tokens_per_parameter"])


def _read_ladder(recipe: Recipe, plan: Plan, folder: Path) -> _Ladder | None:
    """The ladder in `folder`; None if it is that of another recipe or ratio."""
    path = folder / SCALING_LAW_FILE
    if plan.parameters is None or not path.is_file():
        return None
    ladder = read_json_file(_Ladder, path, hint=HINT)
    ratio = plan.summary()["tokens_per_parameter"] / ladder["tokens_per_parameter"]
    if ladder["signature"] != fingerprint(recipe_signature(recipe)) or abs(ratio - 1) > RATIO_TOLERANCE:
        return None
    return ladder
