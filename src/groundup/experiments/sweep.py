"""Sweeps: a grid of knob values. `--set train.learning_rate=1e-4,3e-4 --set train.batch_tokens=2048,4096`: four variants."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import format_duration
from groundup.experiments.variants import VariantResult
from groundup.recipe import Recipe, load_recipe

MAX_NAME_LENGTH = 80


def expand_grid(path: Path, sets: Iterable[str]) -> dict[str, Recipe]:
    """All combinations of the knob values in `sets` as recipes, by folder name.

    Raises UserError if no knob has several values, or if one of them is in [machine] and cannot change the result.
    """
    knobs = [(override.partition("=")[0].strip(), split_values(override)) for override in sets]
    several = [knob for knob, choices in knobs if len(choices) > 1]
    if not several:
        raise UserError(
            "nothing to compare: no knob has several values", hint="example: --set train.learning_rate=1e-4,3e-4"
        )
    if machine := [knob for knob in several if knob.startswith("machine.")]:
        raise UserError(
            f"{machine[0]} does not change the result: all variants would be equal",
            hint="measure speed in separate runs",
        )
    recipes: dict[str, Recipe] = {}
    for combination in itertools.product(*(choices for _, choices in knobs)):
        overrides = [f"{knob}={value}" for (knob, _), value in zip(knobs, combination, strict=True)]
        compared = [override for override in overrides if override.partition("=")[0] in several]
        recipes[variant_name(compared)] = load_recipe(path, overrides)
    return recipes


def split_values(override: str) -> list[str]:
    """The values of `knob=a,b,c`; commas inside brackets, braces and quotes do not separate."""
    _, _, text = override.partition("=")
    values, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[start:index])
            start = index + 1
    return [value.strip() for value in [*values, text[start:]]]


def variant_name(overrides: list[str]) -> str:
    """A name of the variant that is safe as a folder name."""
    name = ",".join(overrides)
    safe = re.sub(r"[^A-Za-z0-9=,.+_-]", "_", name).lstrip(".")
    if safe == name and len(safe) <= MAX_NAME_LENGTH:
        return safe
    return f"{safe[: MAX_NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def format_sweep(results: list[VariantResult]) -> str:
    """The variants as a table: best first, failed ones last."""
    ranked = sorted(results, key=lambda result: (result.bits_per_byte is None, result.bits_per_byte or 0.0))
    width = max(len(result.name) for result in results)
    lines = [f"{'variant':<{width}}  bits/byte  train loss  tokens/s      time"]
    for result in ranked:
        if result.error is not None:
            lines.append(f"{result.name:<{width}}  failed: {result.error.splitlines()[0]}")
            continue
        loss = "         -" if result.final_loss is None else f"{result.final_loss:10.4f}"
        bits = "        -" if result.bits_per_byte is None else f"{result.bits_per_byte:9.4f}"
        lines.append(
            f"{result.name:<{width}}  {bits}  {loss}  {result.tokens_per_second or 0:8,.0f}"
            f"  {format_duration(result.seconds or 0):>8}"
        )
    return "\n".join(lines)


def results_to_json(results: list[VariantResult]) -> str:
    return json.dumps([vars(result) for result in results], indent=1, default=str)  # str: paths
