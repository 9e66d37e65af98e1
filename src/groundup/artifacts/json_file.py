"""JSON files as objects of a known schema: every way in which a file can be wrong is one line."""

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from groundup.artifacts.errors import UserError

T = TypeVar("T")


def read_json_object(path: Path, *, hint: str = "copy or download the file again") -> dict[str, Any]:
    """The object in a JSON file. Raises UserError for a missing or unreadable file, and for another JSON type."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint=hint) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", hint=hint) from None
    content = parse_json(data, path, hint=hint)
    if not isinstance(content, dict):
        raise UserError(f"{path}: {type(content).__name__} found, expected an object", hint=hint)
    return content


def parse_json(data: bytes | str, source: object, *, hint: str | None = None) -> Any:
    """The value of a JSON text. Raises UserError, which begins with `source`: a file, or a file and a line."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        content = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()  # refuses lone surrogates, which no text can contain
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not valid JSON: {error}", hint=hint) from None
    return content


def read_json_file(schema: type[T], path: Path, *, hint: str = "copy or download the file again") -> T:
    """The object in a JSON file as a `schema`: a dataclass, TypedDict or pydantic model. Raises UserError.

    No type is converted: a number in quotes is not a number.
    """
    fields = read_json_object(path, hint=hint)
    try:
        return _adapter(schema).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] == "missing" else f" = {shorten(first['input'])}"
        raise UserError(f"{path}: {field}{found}: {first['msg']}", hint=hint) from None


def parse_toml(text: str) -> dict[str, Any]:
    """The content of a TOML text. Raises tomllib.TOMLDecodeError, also for values nested too deeply."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError("nested too deeply") from None


def shorten(value: Any, length: int = 60) -> str:
    """`repr(value)`, shortened to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


@cache
def _adapter(schema: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(schema)
