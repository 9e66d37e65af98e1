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
from groundup.experiments.variants import Outcome
from groundup.plan import derive, law
from groundup.plan.count import count
from groundup.plan.derive import model_config
from groundup.plan.expected import COURSE, LAW_FILE, SIZES, kind_of
from groundup.plan.shape import shapes
from groundup.recipe import Recipe, parse


def rungs(recipe: Recipe, number: int, largest_share: float) -> dict[str, Recipe]:
    """`number` smaller recipes by name, each with half the parameters of the next or more.

    The largest takes `largest_share` of the recipe's compute, which grows as the square of the parameters where tokens
    keep their ratio to them. Sizes that come out alike count once.
    Raises UserError where fewer sizes are left than a law needs.
    """
    plan = derive(recipe)
    if recipe.train is None or plan.parameters is None:
        raise UserError("the recipe has no [train] table: nothing to predict", hint="add one")
    asked = recipe.model_dump(mode="json", exclude_none=True)
    asked["model"] = {name: value for name, value in asked["model"].items() if name not in SIZES}
    asked["train"] = {name: value for name, value in asked["train"].items() if name not in COURSE}
    asked["budget"].pop("hours", None)  # with a width and no hours the tokens are the ratio, to the token
    asked["budget"]["tokens_per_parameter"] = plan.facts()["tokens_per_parameter"]
    vocab_size = model_config(plan.recipe).vocab_size
    sizes = {count(config).total: config.hidden_size for config in shapes(vocab_size, asked["model"])}
    largest = plan.parameters.total * math.sqrt(largest_share)
    step = min(2.0, max(1.0, largest / min(sizes)) ** (1 / (number - 1)))
    wanted = [largest / step**rung for rung in range(number)]
    chosen = {min(sizes, key=lambda size: abs(math.log(size / goal))) for goal in wanted}
    if len(chosen) < law.FEWEST:
        raise UserError(
            f"the ladder has {len(chosen)} different sizes up to {largest:,.0f} parameters; a law needs {law.FEWEST}",
            hint="more --rungs, a larger --share, or a larger budget",
        )
    return {f"{size:011d}": parse(asked, [f"model.hidden_size={sizes[size]}"]) for size in sorted(chosen)}


def conclude(recipe: Recipe, outcomes: list[Outcome], folder: Path) -> dict[str, Any]:
    """Fit the law to the rungs that were trained, keep it in `folder`, and predict the recipe's own size.

    Raises UserError as `law.fit` does.
    """
    points = [
        {
            "run": outcome.run.name,
            "parameters": outcome.plan["parameters"]["total"],
            "tokens": outcome.plan["train"]["tokens"],
            "bits_per_byte": outcome.bits_per_byte,
        }
        for outcome in outcomes
        if outcome.bits_per_byte is not None
    ]
    sizes = [point["parameters"] for point in points]
    losses = [point["bits_per_byte"] for point in points]
    fitted = law.fit(sizes, losses)
    facts = derive(recipe).facts()
    found = {
        "kind": fingerprint(kind_of(recipe)),
        "tokens_per_parameter": facts["tokens_per_parameter"],
        "points": points,
        "typical": fitted.typical(),
        "check": law.last_as_check(sizes, losses),
        "prediction": {
            "parameters": facts["parameters"]["total"],
            **fitted.predict(facts["parameters"]["total"]),
        },
        "law": asdict(fitted),
    }
    write_atomically(folder / LAW_FILE, (json.dumps(found, indent=1) + "\n").encode())
    return found


def table(found: Mapping[str, Any]) -> str:
    """The rungs, the law, how it did on the largest rung, and what it says of the recipe."""
    typical, prediction, check = found["typical"], found["prediction"], found["check"]
    lines = ["   parameters        tokens  bits/byte"]
    lines += [
        f"{point['parameters']:>13,} {point['tokens']:>13,} {point['bits_per_byte']:>10.4f}"
        for point in found["points"]
    ]
    unit = typical["unit"]
    lines.append(
        f"law: {typical['floors']:.3f} + {typical['scales']:.3f} (N / {unit:.3g}) ^ -{typical['exponents']:.3f}"
    )
    if check is not None:
        lines.append(
            f"check: without its largest rung the law says {check['loss']:.3f} ({check['low']:.3f} to "
            f"{check['high']:.3f}) of it; it reached {check['reached']:.3f}"
        )
    lines.append(
        f"prediction: {prediction['parameters']:,} parameters reach {prediction['loss']:.3f} bits per byte, "
        f"with 90% between {prediction['low']:.3f} and {prediction['high']:.3f}"
    )
    return "\n".join(lines)
