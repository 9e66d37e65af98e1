"""The recipe itself: what one needs to build the same again."""

import json
from typing import Any

from pydantic import ValidationError

from groundup.recipe import Recipe
from groundup.report.blocks import listing, paragraph, section


def recipe(facts: dict[str, Any]) -> dict[str, Any] | None:
    if not facts["recipe"]:
        return None
    words = "Every knob that differs from its default. The same recipe gives the same model again."
    return section("The recipe", [paragraph(words), listing(toml(_asked_for(facts["recipe"])))])


def toml(values: dict[str, Any]) -> str:
    """A recipe as TOML: plain knobs first, then a table for each section, and one for each source."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for name in (name for name in Recipe.model_fields if isinstance(values.get(name), dict)):
        lines += ["", f"[{name}]"]
        tables: list[str] = []
        for key, value in values[name].items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                for entry in value:
                    tables += ["", f"[[{name}.{key}]]", *(f"{k} = {_value(v)}" for k, v in entry.items())]
            else:
                lines.append(f"{key} = {_value(value)}")
        lines += tables
    return "\n".join(lines)


def _asked_for(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without defaults, and without the machine, which has no part in what is built."""
    try:
        asked = Recipe.model_validate(recipe)
    except ValidationError:  # written by another version of groundup: then as it stands
        return recipe
    values = asked.model_dump(mode="json", exclude_defaults=True, exclude={"machine"})
    tables = [
        name for name, field in Recipe.model_fields.items() if field.default is None and getattr(asked, name)
    ]
    return {name: {} for name in tables} | values


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)
