"""A grid of knobs: `--set train.learning_rate=1e-4,3e-4 --set train.batch_tokens=2048,4096` is four variants."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import format_duration
from groundup.experiments.variants import VariantResult
from groundup.recipe import Recipe, load_recipe

MAX_NAME_LENGTH = 80


def expand_grid(path: Path, sets: Iterable[str]) -> dict[str, Recipe]:
    """Every combination of the values of `sets` as a recipe, by a name that fits a folder.

    Raises UserError when no knob has several values, and for a knob of [machine], which changes nothing in what comes out.
    """
    knobs = [(override.partition("=")[0].strip(), split_values(override)) for override in sets]
    several = [knob for knob, choices in knobs if len(choices) > 1]
    if not several:
        raise UserError(
            "nothing to compare: no knob has several values",
            hint="for example --set train.learning_rate=1e-4,3e-4",
        )
    if machine := [knob for knob in several if knob.startswith("machine.")]:
        raise UserError(
            f"{machine[0]} changes where a run happens, not what it is: all variants would be one",
            hint="compare speeds with separate runs",
        )
    recipes: dict[str, Recipe] = {}
    for combination in itertools.product(*(choices for _, choices in knobs)):
        overrides = [f"{knob}={value}" for (knob, _), value in zip(knobs, combination, strict=True)]
        compared = [override for override in overrides if override.partition("=")[0] in several]
        recipes[variant_name(compared)] = load_recipe(path, overrides)
    return recipes


def split_values(override: str) -> list[str]:
    """The values of `knob=a,b,c`; commas inside brackets, braces and quotes belong to a value."""
    _, _, text = override.partition("=")
    parts, depth, quote, begin = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[begin:place])
            begin = place + 1
    return [part.strip() for part in [*parts, text[begin:]]]


def variant_name(overrides: list[str]) -> str:
    """A name for the variant that is safe as a folder's."""
    name = ",".join(overrides)
    safe = re.sub(r"[^A-Za-z0-9=,.+_-]", "_", name).lstrip(".")
    if safe == name and len(safe) <= MAX_NAME_LENGTH:
        return safe
    return f"{safe[: MAX_NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def format_sweep(results: list[VariantResult]) -> str:
    """The variants, best first, failed ones last."""
    ranked = sorted(
        results, key=lambda outcome: (outcome.bits_per_byte is None, outcome.bits_per_byte or 0.0)
    )
    width = max(len(outcome.name) for outcome in results)
    lines = [f"{'variant':<{width}}  bits/byte  train loss  tokens/s      time"]
    for outcome in ranked:
        if outcome.error is not None:
            lines.append(f"{outcome.name:<{width}}  failed: {outcome.error.splitlines()[0]}")
            continue
        bits = "        -" if outcome.bits_per_byte is None else f"{outcome.bits_per_byte:9.4f}"
        lines.append(
            f"{outcome.name:<{width}}  {bits}  {outcome.final_loss:10.4f}  {outcome.tokens_per_second or 0:8,.0f}"
            f"  {format_duration(outcome.seconds or 0):>8}"
        )
    return "\n".join(lines)


def results_to_json(results: list[VariantResult]) -> str:
    return json.dumps([_json_fields(outcome) for outcome in results], indent=1)


def _json_fields(result: VariantResult) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(result).items()}
