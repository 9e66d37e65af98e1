"""A row of sizes: small models of the recipe's own kind, trained on its own text, that say how well the real one will do.

Every rung has the recipe's ratio of tokens to parameters, and what the recipe leaves open is derived for the rung's size
as it is for the real one.
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
from groundup.plan import derive, scaling_law
from groundup.plan.derive import resolved_model_config
from groundup.plan.model_shape import candidate_configs
from groundup.plan.parameter_count import count_parameters
from groundup.plan.prediction import DERIVED_FROM_SIZE, MODEL_SIZE_KNOBS, SCALING_LAW_FILE, recipe_signature
from groundup.recipe import Recipe, parse_recipe


def ladder_recipes(recipe: Recipe, num_sizes: int, max_compute_fraction: float) -> dict[str, Recipe]:
    """`number` smaller recipes by name, each with half the parameters of the next or more.

    The largest takes `largest_share` of the recipe's compute, which grows as the square of the parameters where tokens
    keep their ratio to them. Sizes that come out alike count once.
    Raises UserError where fewer sizes are left than a law needs.
    """
    plan = derive(recipe)
    if recipe.train is None or plan.parameters is None:
        raise UserError("the recipe has no [train] table: nothing to predict", hint="add one")
    asked = recipe.model_dump(mode="json", exclude_none=True)
    asked["model"] = {name: value for name, value in asked["model"].items() if name not in MODEL_SIZE_KNOBS}
    asked["train"] = {name: value for name, value in asked["train"].items() if name not in DERIVED_FROM_SIZE}
    asked["budget"].pop("hours", None)  # with a width and no hours the tokens are the ratio, to the token
    asked["budget"]["tokens_per_parameter"] = plan.summary()["tokens_per_parameter"]
    vocab_size = resolved_model_config(plan.recipe).vocab_size
    sizes = {
        count_parameters(config).total: config.hidden_size
        for config in candidate_configs(vocab_size, asked["model"])
    }
    largest = plan.parameters.total * math.sqrt(max_compute_fraction)
    step = min(2.0, max(1.0, largest / min(sizes)) ** (1 / (num_sizes - 1)))
    wanted = [largest / step**rung for rung in range(num_sizes)]
    chosen = {min(sizes, key=lambda size: abs(math.log(size / goal))) for goal in wanted}
    if len(chosen) < scaling_law.MIN_POINTS:
        raise UserError(
            f"the ladder has {len(chosen)} different sizes up to {largest:,.0f} parameters; a law needs {scaling_law.MIN_POINTS}",
            hint="more --sizes, a larger --compute-fraction, or a larger budget",
        )
    return {
        f"{size:011d}": parse_recipe(asked, [f"model.hidden_size={sizes[size]}"]) for size in sorted(chosen)
    }


def fit_and_predict(recipe: Recipe, results: list[VariantResult], folder: Path) -> dict[str, Any]:
    """Fit the law to the rungs that were trained, keep it in `folder`, and predict the recipe's own size.

    Raises UserError as `law.fit` does.
    """
    points = [
        {
            "run": outcome.run_folder.name,
            "parameters": outcome.plan["parameters"]["total"],
            "tokens": outcome.plan["train"]["tokens"],
            "bits_per_byte": outcome.bits_per_byte,
        }
        for outcome in results
        if outcome.bits_per_byte is not None
    ]
    sizes = [point["parameters"] for point in points]
    losses = [point["bits_per_byte"] for point in points]
    fitted = scaling_law.fit_scaling_law(sizes, losses)
    facts = derive(recipe).summary()
    found = {
        "signature": fingerprint(recipe_signature(recipe)),
        "tokens_per_parameter": facts["tokens_per_parameter"],
        "points": points,
        "medians": fitted.medians(),
        "check": scaling_law.holdout_check(sizes, losses),
        "prediction": {
            "parameters": facts["parameters"]["total"],
            **fitted.predict(facts["parameters"]["total"]),
        },
        "scaling_law": asdict(fitted),
    }
    write_atomically(folder / SCALING_LAW_FILE, (json.dumps(found, indent=1) + "\n").encode())
    return found


def format_ladder(ladder: Mapping[str, Any]) -> str:
    """The rungs, the law, how it did on the largest rung, and what it says of the recipe."""
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
            f"check: without its largest rung the law says {check['loss']:.3f} ({check['low']:.3f} to "
            f"{check['high']:.3f}) of it; it reached {check['observed']:.3f}"
        )
    lines.append(
        f"prediction: {prediction['parameters']:,} parameters reach {prediction['loss']:.3f} bits per byte, "
        f"with 90% between {prediction['low']:.3f} and {prediction['high']:.3f}"
    )
    return "\n".join(lines)
