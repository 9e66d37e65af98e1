"""The base class of all recipe tables, and the declaration of a knob."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from groundup.artifacts.arguments import unknown_option
from groundup.artifacts.errors import UserError

TYPE_NAMES = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false",
    "tuple_type": 'a list, such as ["one", "two"]', "string_type": "a text", "model_type": "a table",
}  # fmt: skip
"""Types by pydantic error, in words of TOML."""


class _ConfigType(type(BaseModel)):
    """Construction by call raises UserError; `model_validate` raises ValidationError, whose callers know more."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **options: Any) -> Any:
            try:
                return super().__call__(*args, **options)
            except ValidationError as error:
                raise _option_error(error, cls) from None


def _option_error(error: ValidationError, schema: type[BaseModel]) -> UserError:
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return (
            unknown_option(name, schema.model_fields) if len(first["loc"]) == 1 else UserError(f"unknown option {name}")
        )
    if first["type"] == "missing":
        return UserError(f"{name} is missing", hint=f"{schema.__name__}({name}=...)")
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = f"expected {TYPE_NAMES[first['type']]}" if first["type"] in TYPE_NAMES else message
    value = "" if isinstance(first["input"], dict | list | tuple) else f" = {first['input']!r}"
    return UserError(f"{name}{value}: {message}" if name else message)


class BaseConfig(BaseModel, metaclass=_ConfigType):
    """A frozen table of knobs that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def knob(default: Any = ..., meaning: str = "", *, unset: str = "", **bounds: Any) -> Any:
    """A field with its default and its meaning, which `groundup explain` and the book print.

    `unset` says what a default of None stands for, such as "derived: 2% of train.steps" or "off".
    """
    return Field(default, description=meaning, json_schema_extra={"unset": unset} if unset else None, **bounds)
