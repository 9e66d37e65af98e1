"""Report section: the recipe as TOML."""

import json
from typing import Any

from groundup.recipe import Recipe
from groundup.recipe.recipe_file import all_knobs
from groundup.report.elements import listing, paragraph, section


def recipe_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    if not run_data["recipe"]:
        return None
    introduction = "All settings that differ from their defaults."
    return section("Recipe", [paragraph(introduction), listing(toml(_non_default(run_data["recipe"])))])


def toml(values: dict[str, Any]) -> str:
    """A recipe as TOML: top-level values, then sections and arrays of tables."""
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


def _non_default(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without default values and without [machine]; unknown knobs are kept."""
    known = {name: field.get_default(call_default_factory=True) for name, field in all_knobs().items()}
    changed = _without_defaults({name: value for name, value in recipe.items() if name != "machine"}, "", known)
    tables = {name: {} for name, value in recipe.items() if isinstance(value, dict) and known.get(name, 0) is None}
    return tables | changed


def _without_defaults(values: dict[str, Any], prefix: str, known: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, dict):
            if inner := _without_defaults(value, f"{name}.", known):
                changed[key] = inner
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            changed[key] = [_without_defaults(entry, f"{name}[].", known) for entry in value]
        elif name not in known or _to_list(known[name]) != value:
            changed[key] = value
    return changed


def _to_list(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)
