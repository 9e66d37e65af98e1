"""Scaling ladder: train small models of a recipe on its text, fit a scaling law, predict the loss of the full size.

All sizes have the recipe's ratio of tokens to parameters; knobs that the recipe leaves open are derived for each size.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.experiments.variants import VariantResult
from groundup.plan.derive import resolved_model_config
from groundup.plan.scaling import scaling_law
from groundup.plan.scaling.prediction import DERIVED_FROM_SIZE, MODEL_SIZE_KNOBS, SCALING_LAW_FILE, recipe_signature
from groundup.plan.shape.model_shape import candidate_configs
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import Recipe, parse_recipe
from groundup.stage_runs import derive_recipe


def ladder_recipes(recipe: Recipe, num_sizes: int, max_compute_fraction: float) -> dict[str, Recipe]:
    """Up to `num_sizes` smaller recipes by name, each with at least half the parameters of the next.

    The largest takes `max_compute_fraction` of the recipe's compute, which is quadratic in the parameters at a fixed
    ratio of tokens to parameters. Equal sizes are merged.
    Raises UserError if fewer sizes remain than a scaling law needs.
    """
    if not 0 < max_compute_fraction <= 1:
        raise UserError(
            f"compute fraction {max_compute_fraction}, expected above 0 and at most 1", hint="--compute-fraction 0.1"
        )
    if num_sizes < scaling_law.MIN_POINTS:
        raise UserError(f"{num_sizes} sizes, expected at least {scaling_law.MIN_POINTS}", hint="more --sizes")
    plan = derive_recipe(recipe)
    if recipe.train is None or plan.parameters is None:
        raise UserError("the recipe has no [train] table: nothing to predict", hint="add a [train] table")
    values = recipe.model_dump(mode="json", exclude_none=True)
    values["model"] = {name: value for name, value in values["model"].items() if name not in MODEL_SIZE_KNOBS}
    values["train"] = {name: value for name, value in values["train"].items() if name not in DERIVED_FROM_SIZE}
    values["budget"].pop("hours", None)
    ratio = values["budget"]["tokens_per_parameter"] = plan.summary()["tokens_per_parameter"]
    vocab_size = resolved_model_config(plan.recipe).vocab_size
    sizes = {count_parameters(config).total: config for config in candidate_configs(vocab_size, values["model"])}
    largest = plan.parameters.total * math.sqrt(max_compute_fraction)
    step = min(2.0, max(1.0, largest / min(sizes)) ** (1 / (num_sizes - 1)))
    targets = [largest / step**index for index in range(num_sizes)]
    chosen = {min(sizes, key=lambda size: abs(math.log(size / target))) for target in targets}
    if len(chosen) < scaling_law.MIN_POINTS:
        raise UserError(
            f"the ladder has {len(chosen)} different sizes up to {largest:,.0f} parameters; "
            f"a scaling law needs {scaling_law.MIN_POINTS}",
            hint="more --sizes, a larger --compute-fraction, or a larger budget",
        )
    recipes = {}
    for size in sorted(chosen):
        tokens = int(ratio * count_parameters(sizes[size]).active)
        shape = {name: getattr(sizes[size], name) for name in ("hidden_size", "num_layers")}
        sets = [*(f"model.{name}={value}" for name, value in shape.items()), f"train.tokens={tokens}"]
        recipes[f"{size:011d}"] = parse_recipe(values, sets)
    return recipes


def fit_and_predict(recipe: Recipe, results: list[VariantResult], folder: Path) -> dict[str, Any]:
    """Fit a scaling law to the trained sizes, write it to `folder`, and predict the loss of the recipe.

    Raises UserError as `fit_scaling_law` does.
    """
    points = [
        {
            "run": result.run_folder.name,
            "parameters": result.plan["parameters"]["total"],
            "tokens": result.plan["train"]["tokens"],
            "bits_per_byte": result.bits_per_byte,
        }
        for result in results
        if result.bits_per_byte is not None
    ]
    sizes = [point["parameters"] for point in points]
    losses = [point["bits_per_byte"] for point in points]
    law = scaling_law.fit_scaling_law(sizes, losses)
    plan = derive_recipe(recipe).summary()
    ladder = {
        "signature": fingerprint(recipe_signature(recipe)),
        "tokens_per_parameter": plan["tokens_per_parameter"],
        "points": points,
        "medians": law.medians(),
        "check": scaling_law.holdout_check(sizes, losses),
        "prediction": {"parameters": plan["parameters"]["total"], **law.predict(plan["parameters"]["total"])},
        "scaling_law": asdict(law),
    }
    write_atomically(folder / SCALING_LAW_FILE, (json.dumps(ladder, indent=1) + "\n").encode())
    return ladder


def format_ladder(ladder: Mapping[str, Any]) -> str:
    """The sizes, the scaling law, its check on the largest size, and the prediction, as text."""
    medians, prediction, check = ladder["medians"], ladder["prediction"], ladder["check"]
    lines = ["   parameters        tokens  bits/byte"]
    lines += [
        f"{point['parameters']:>13,} {point['tokens']:>13,} {point['bits_per_byte']:>10.4f}"
        for point in ladder["points"]
    ]
    unit = medians["unit"]
    lines.append(
        f"law: {medians['floors']:.3f} + {medians['scales']:.3f} (N / {unit:.3g}) ^ -{medians['exponents']:.3f}"
    )
    if check is not None:
        lines.append(
            f"check: fitted without the largest size, the law predicts {check['loss']:.3f} ({check['low']:.3f} to "
            f"{check['high']:.3f}) for it; measured {check['observed']:.3f}"
        )
    lines.append(
        f"prediction: {prediction['parameters']:,} parameters reach {prediction['loss']:.3f} bits per byte "
        f"(90% interval {prediction['low']:.3f} to {prediction['high']:.3f})"
    )
    return "\n".join(lines)
