"""Recipe files: TOML and `--set` overrides to a checked recipe, or a one-line error."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import parse_toml
from groundup.recipe.allowed_inputs import SECRET_PARAMETER, check_inputs
from groundup.recipe.base_config import expectation
from groundup.recipe.bundled_recipes import BUNDLED_RECIPES
from groundup.recipe.field_words import literal_values, nearest_knob, nearest_value
from groundup.recipe.model_config import ModelConfig
from groundup.recipe.recipe import Recipe

PASSWORD_IN_URL = re.compile(
    r"(https?://[^/?#]*@|[a-z][a-z0-9+.-]*://([^/?#@]*:[^/?#]*@|[^?#]*\?([^#]*&)?" + SECRET_PARAMETER + "=))",
    re.IGNORECASE,
)
"""User, password or signature in an address; a user alone may be a token for web servers."""


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides of the form "train.steps=50".

    Raises UserError for a missing file, broken TOML, an unknown knob (with the nearest known name) or a bad value.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such recipe file",
            hint="groundup init writes one for your text; groundup init --recipe NAME copies one of "
            + ", ".join(BUNDLED_RECIPES),
        )
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and a number of thousands of digits
        raise UserError(f"{path}: not valid TOML: {error}", hint="see https://toml.io for the syntax") from None
    values.setdefault("name", path.stem)
    return parse_recipe(values, overrides, source_name=str(path))


def parse_recipe(values: Mapping[str, Any], overrides: Iterable[str] = (), *, source_name: str = "recipe") -> Recipe:
    """A recipe from nested dicts, as TOML gives them. Raises UserError as `load_recipe` does.

    >>> parse_recipe({"name": "x", "train": {"steps": 5}}, ["train.steps=50"]).train.steps
    50
    """
    merged = _copy_tables(values)
    _refuse_reward_code(merged, source_name)
    for override in overrides:
        _apply_override(merged, override)
    _refuse_passwords(merged, source_name)
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        raise _user_error(error, source_name) from None
    if recipe.machine.allowed_inputs is not None:
        check_inputs(recipe.model_dump(), recipe.machine.allowed_inputs)
    return recipe


def build_model_config(values: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig(**values), with a UserError instead of pydantic's ValidationError."""
    try:
        return ModelConfig.model_validate(dict(values))
    except ValidationError as error:
        raise _user_error(error, "recipe", "model") from None


def all_knobs(model: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, Any]:
    """Pydantic fields of all knobs by dotted name; items of lists are written `data.sources[].kind`."""
    knobs: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        knobs[prefix + name] = field
        for inner, is_list in _inner_models(field.annotation):
            knobs |= all_knobs(inner, f"{prefix}{name}{'[]' if is_list else ''}.")
    return knobs


def _inner_models(annotation: Any) -> list[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, False)]
    if get_origin(annotation) in (Union, UnionType):
        return [pair for part in get_args(annotation) for pair in _inner_models(part)]
    if get_origin(annotation) in (tuple, list):
        return [(inner, True) for part in get_args(annotation) for inner, _ in _inner_models(part)]
    return []


def _refuse_passwords(values: Any, source_name: str, name: str = "") -> None:
    """Raise UserError for an address with a password: the recipe is copied into the run, its manifests and its report."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            _refuse_passwords(value, source_name, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            _refuse_passwords(value, source_name, f"{name}[{index}]")
    elif isinstance(values, str) and PASSWORD_IN_URL.match(values):
        raise UserError(
            f"{source_name}: {name} has a password or signature in its address, which every copy of the recipe would contain",
            hint="write it into ~/.netrc (machine HOST login USER password PASSWORD) or fsspec's settings, or download the file",
        )


def _refuse_reward_code(values: Mapping[str, Any], source_name: str) -> None:
    """Raise UserError for a recipe that allows itself to run code."""
    machine = values.get("machine")
    if isinstance(machine, Mapping) and (path := machine.get("reward_code")) is not None:
        raise UserError(
            f"{source_name}: machine.reward_code = {path!r}, which is read from the command line alone",
            hint=f"look at the file first, then --set machine.reward_code={path}",
        )


def _copy_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy_tables(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: expected knob=value", hint="for example --set train.steps=50")
    *tables, last = key.strip().split(".")
    for depth, name in enumerate(tables):
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(
                f"--set {override}: {'.'.join(tables[: depth + 1])} is not a table",
                hint="set a list as a whole: --set 'evaluate.prompts=[\"The\"]'",
            )
    field = all_knobs().get(key.strip())
    values[last] = _parse_value(text.strip(), literal_values(field.annotation) if field else set())


def _parse_value(text: str, literals: set[Any]) -> Any:
    """`text` as a TOML value, or as a string; `none` is None, unless it is one of the `literals` of the knob."""
    if text.lower() == "none":
        return "none" if "none" in literals else None
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _user_error(error: ValidationError, source_name: str, table: str = "") -> UserError:
    """The first problem in one line, with the number of others; names are relative to `table`."""
    problems = error.errors(include_url=False)
    first = min(
        problems, key=lambda problem: problem["type"] != "extra_forbidden"
    )  # a wrong name explains a missing one
    path = [table, *first["loc"]] if table else first["loc"]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    message = expectation(first)
    hint = f"groundup explain {_without_indices(name)}"
    value = "" if isinstance(first["input"], dict | list | tuple) else f" = {first['input']!r}"
    text = f"{name}{value}: {message}"
    if not name:  # of the recipe as a whole
        text, hint = message, "leave one of both out"
    if first["type"] == "extra_forbidden":
        near = nearest_knob(_without_indices(name), all_knobs())
        text, hint = f"unknown knob {name}", f"did you mean {near}?" if near else "groundup explain lists every knob"
    elif first["type"] == "missing":
        text = f"{name} is missing"
    elif first["type"] == "literal_error" and (field := all_knobs().get(_without_indices(name))):
        near = nearest_value(first["input"], field.annotation)
        hint = f'did you mean "{near}"? {hint}' if near else hint
    elif first["type"] == "too_short" and not first["input"]:
        text = f"{name} is empty"
    elif (knob := f"{_without_indices(name)}.{message.split()[0]}") in all_knobs():
        text, hint = f"{name}.{message}", f"groundup explain {knob}"  # of several knobs, named by the first
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return UserError(f"{source_name}: {text}{others}", hint=hint)


def _without_indices(name: str) -> str:
    return "".join("[]" if part.isdigit() else part for part in name.replace("]", "[").split("["))
