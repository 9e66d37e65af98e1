"""A grid of knobs: `--set train.learning_rate=1e-4,3e-4 --set train.batch_tokens=2048,4096` is four variants."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import clock
from groundup.experiments.variants import Outcome
from groundup.recipe import Recipe, load

LONGEST_NAME = 80


def grid(path: Path, sets: Iterable[str]) -> dict[str, Recipe]:
    """Every combination of the values of `sets` as a recipe, by a name that fits a folder.

    Raises UserError when no knob has several values, and for a knob of [machine], which changes nothing in what comes out.
    """
    knobs = [(override.partition("=")[0].strip(), values(override)) for override in sets]
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
        recipes[folder_name(compared)] = load(path, overrides)
    return recipes


def values(override: str) -> list[str]:
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


def folder_name(overrides: list[str]) -> str:
    """A name for the variant that is safe as a folder's."""
    name = ",".join(overrides)
    safe = re.sub(r"[^A-Za-z0-9=,.+_-]", "_", name).lstrip(".")
    if safe == name and len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def table(outcomes: list[Outcome]) -> str:
    """The variants, best first, failed ones last."""
    ranked = sorted(
        outcomes, key=lambda outcome: (outcome.bits_per_byte is None, outcome.bits_per_byte or 0.0)
    )
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [f"{'variant':<{width}}  bits/byte  train loss  tokens/s      time"]
    for outcome in ranked:
        if outcome.error is not None:
            lines.append(f"{outcome.name:<{width}}  failed: {outcome.error.splitlines()[0]}")
            continue
        bits = "        -" if outcome.bits_per_byte is None else f"{outcome.bits_per_byte:9.4f}"
        lines.append(
            f"{outcome.name:<{width}}  {bits}  {outcome.final_loss:10.4f}  {outcome.tokens_per_second or 0:8,.0f}"
            f"  {clock(outcome.seconds or 0):>8}"
        )
    return "\n".join(lines)


def as_json(outcomes: list[Outcome]) -> str:
    return json.dumps([_plain(outcome) for outcome in outcomes], indent=1)


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(outcome).items()}
