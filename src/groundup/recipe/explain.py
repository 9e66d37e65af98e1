"""Documentation of knobs: for `groundup explain`, the reference page of the book, and editors (JSON schema)."""

import json
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from groundup.artifacts.errors import UserError
from groundup.recipe.base_config import PATTERN_WORDS
from groundup.recipe.field_words import knobs_of_word, nearest_knob
from groundup.recipe.recipe import Recipe
from groundup.recipe.recipe_file import all_knobs


def explain_knob(name: str) -> str:
    """Meaning, type and default of one knob, also of one that a word of the field stands for, such as dpo or rlhf.

    Raises UserError for an unknown name.

    >>> print(explain_knob("train.warmup_steps"))
    train.warmup_steps: steps of linear learning rate warmup
      type:    whole number (≥ 0)
      default: derived: 2% of the steps
    """
    known = all_knobs()
    listed = {knob.replace("[]", ""): knob for knob in known}
    name = listed.get(name, name)
    if name not in known:
        if knobs := knobs_of_word(name, known):
            return "\n".join([f"{name}, in a recipe: {', '.join(knobs)}", "", explain_knob(knobs[0])])
        near = nearest_knob(name, known)
        raise UserError(f"unknown knob {name}", hint=f"did you mean {near}?" if near else "groundup explain lists all")
    field = known[name]
    lines = [f"{name}: {field.description}", f"  type:    {_format_type(field.annotation)}{_format_bounds(field)}"]
    lines.append(f"  default: {_format_default(field)}")
    lines += [f"  knob:    {inner}" for inner in known if inner.startswith((f"{name}.", f"{name}[]."))]
    return "\n".join(lines)


def knob_table() -> list[tuple[str, str, str, str]]:
    """All knobs as (name, type, default, meaning), in the order of the recipe."""
    return [
        (name, _format_type(field.annotation) + _format_bounds(field), _format_default(field), field.description or "")
        for name, field in all_knobs().items()
    ]


def json_schema() -> dict[str, Any]:
    """The JSON schema of recipes, for completion and checks in editors."""
    return Recipe.model_json_schema()


def _format_type(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "none"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(arg) for arg in args)
    if origin is tuple:
        return f"list of {_format_type(args[0])}"
    if origin is dict:
        return f"table of {_format_type(args[1])} by name"
    if origin is Annotated:
        return _format_type(args[0])
    if args:
        return " | ".join(_format_type(arg) for arg in args if arg is not type(None))
    words = {int: "whole number", float: "number", str: "text", bool: "true | false"}
    return words.get(annotation, "table")


def _format_bounds(field: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    metadata = [*field.metadata, *_inner_metadata(field.annotation)]
    bounds = [
        f"{sign} {getattr(bound, attribute):g}"
        for bound in metadata
        for attribute, sign in signs.items()
        if getattr(bound, attribute, None) is not None
    ]
    bounds += [PATTERN_WORDS[bound.pattern] for bound in metadata if getattr(bound, "pattern", None) in PATTERN_WORDS]
    return f" ({', '.join(bounds)})" if bounds else ""


def _inner_metadata(annotation: Any) -> list[Any]:
    """Bounds within a union: `PositiveInt | None`."""
    if get_origin(annotation) is Annotated:
        return list(annotation.__metadata__)
    if get_origin(annotation) in (Union, UnionType):
        return [bound for part in get_args(annotation) for bound in _inner_metadata(part)]
    return []


def _format_default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return field.json_schema_extra["unset"]
    if isinstance(field.default, bool | tuple):  # as in TOML
        return json.dumps(field.default, ensure_ascii=False)
    return str(field.default) if isinstance(field.default, int | float | str) else "see its knobs"
