"""What a ladder of small models says of a recipe: read from its file, where the recipe is still of the same kind."""

import json
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.plan.derive import derive
from groundup.plan.scaling_law import ScalingLaw
from groundup.recipe import Recipe

SCALING_LAW_FILE = "scaling_law.json"
RATIO_TOLERANCE = 0.25
"""The law holds for one ratio of tokens to parameters; so much may a plan's differ from it, since shapes come in steps
and tokens take up what is left. At the exponents of Hoffmann et al. 2022 that moves the loss by about a hundredth."""

MODEL_SIZE_KNOBS = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
DERIVED_FROM_SIZE = ("tokens", "steps", "warmup_steps", "evaluate_every")
"""The knobs that follow from a model's size: rungs of one ladder differ in them and in nothing else."""


def recipe_signature(recipe: Recipe) -> dict[str, Any]:
    """What two recipes, as they were asked for, must share for one law to hold for both: all but size, course and place."""
    values = recipe.model_dump(
        mode="json", include={"data", "tokenizer", "model", "train"}, exclude_none=True
    )
    for section, names in (("model", MODEL_SIZE_KNOBS), ("train", DERIVED_FROM_SIZE)):
        values[section] = {
            name: value for name, value in values.get(section, {}).items() if name not in names
        }
    return values


def predict_loss(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """What the ladder in `folder` predicts for a recipe: loss (bits per byte), low, high (90%), rungs.

    None where there is no ladder, or where it was of another kind of recipe or another ratio of tokens to parameters.
    Raises UserError where the file cannot be read.
    """
    path, plan = folder / SCALING_LAW_FILE, derive(recipe)
    if plan.parameters is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        law = ScalingLaw(**found["law"])
        ratio = plan.summary()["tokens_per_parameter"] / found["tokens_per_parameter"]
        if found["kind"] != fingerprint(recipe_signature(recipe)) or abs(ratio - 1) > RATIO_TOLERANCE:
            return None
        return law.predict(plan.parameters.total) | {"rungs": len(found["points"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a ladder's law ({error!r})", hint="groundup ladder writes it anew"
        ) from None
