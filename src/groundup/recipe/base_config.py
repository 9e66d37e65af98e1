"""The base class of all recipe tables, and the declaration of a knob."""

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from groundup.artifacts.arguments import unknown_option
from groundup.artifacts.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

TYPE_NAMES = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false",
    "tuple_type": 'a list, such as ["one", "two"]', "string_type": "a text", "model_type": "a table",
}  # fmt: skip
"""Types by pydantic error, in words of TOML."""

NAME = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
LOWER_NAME = "^[a-z0-9][a-z0-9_-]*$"
PACKAGE_NAME = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
VERSION = "^[A-Za-z0-9][A-Za-z0-9.!+_-]*$"
SHA256 = "^[0-9a-f]{64}$"
DEVICE = r"^(auto|(cpu|cuda|mps|xpu|hpu)(:\d+)?)$"
PATTERN_WORDS = {
    NAME: "letters, digits, . _ and -, first a letter or digit",
    LOWER_NAME: "lower-case letters, digits, _ and -, first a letter or digit",
    PACKAGE_NAME: "the name of a package: letters, digits, . _ and -",
    VERSION: "a version such as 1.3.3",
    SHA256: "64 hexadecimal digits in lower case",
    DEVICE: "auto, cpu, cuda, cuda:1 (the second one) or mps",
}
"""Patterns of texts, and what they ask for."""


def expectation(problem: ErrorDetails) -> str:
    """What a knob expects, from a problem that pydantic reports."""
    if kind := TYPE_NAMES.get(problem["type"]):
        return f"expected {kind}"
    if pattern := PATTERN_WORDS.get(problem.get("ctx", {}).get("pattern", "")):
        return f"expected {pattern}"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


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
    message = expectation(first)
    value = "" if isinstance(first["input"], dict | list | tuple) else f" = {first['input']!r}"
    return UserError(f"{name}{value}: {message}" if name else message)


class BaseConfig(BaseModel, metaclass=_ConfigType):
    """A frozen table of knobs that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def cached(function: Callable[P, T]) -> Callable[P, T]:
    """`functools.lru_cache` as a plain function with its signature. Arguments may be tables: these are frozen, so hashable."""
    results = lru_cache(maxsize=256)(function)

    @wraps(function)
    def look_up(*args: P.args, **kwargs: P.kwargs) -> T:
        return results(*args, **kwargs)  # type: ignore[arg-type]

    return look_up


def refuse_unused(table: BaseModel, needs: Mapping[str, tuple[bool, tuple[str, ...]]]) -> None:
    """Raises ValueError for a knob with another value than its default where it has no effect.

    `needs`: by what a knob needs, whether the table has it, and the knobs.
    """
    fields = type(table).model_fields
    for need, (is_met, names) in needs.items():
        for name in names:
            if not is_met and (value := getattr(table, name)) != fields[name].default:
                raise ValueError(f"{name} = {spell(value)} has no effect, expected {need}")


def spell(value: Any) -> str:
    """A value as a recipe has it; tables by their method."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(spell, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(getattr(value, "method", value))


def knob(default: Any = ..., meaning: str = "", *, unset: str = "", **bounds: Any) -> Any:
    """A field with its default and its meaning, which `groundup explain` and the book print.

    `unset` says what a default of None stands for, such as "derived: 2% of train.steps" or "off".
    """
    return Field(default, description=meaning, json_schema_extra={"unset": unset} if unset else None, **bounds)
