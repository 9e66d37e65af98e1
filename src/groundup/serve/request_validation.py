"""Validation of request bodies: one message that names the field.

Unknown fields are refused, as OpenAI does: an answer that silently ignores an option is worse than an error. Fields that cannot
change an answer are ignored; known but unsupported ones are ignored only with a value that has no effect.
"""

import difflib
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from groundup.serve.api_error import ApiError

NEUTRAL_FIELDS = frozenset((
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prediction", "cache_prompt", "cache_salt", "request_id", "priority",
))  # fmt: skip
"""Fields that concern accounts, caches and speed: accepted with any value, without effect."""


class RequestBody(BaseModel):
    """A JSON body with strict types: "7" and true are not numbers.

    Long lists are `fail_fast`: a megabyte of wrong elements would be a million error objects.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Unsupported fields, and the values (beside null) with which they are ignored."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_fields(cls, values: Any) -> Any:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for name, value in values.items() if isinstance(values, dict) else ():
            if value is None or name in known or name in NEUTRAL_FIELDS:
                continue
            if name not in cls.UNSUPPORTED:
                raise ApiError(400, _unknown_field(name, known), param=name, code="unknown_field")
            if value not in cls.UNSUPPORTED[name]:
                raise ApiError(400, f"{name} = {_short(value)} is not supported", param=name, code="unsupported")
        return values


RequestType = TypeVar("RequestType", bound=RequestBody)


def parse_request(kind: type[RequestType], body: bytes) -> RequestType:
    """Parse and validate a request. Raises ApiError 400 with the name of the first invalid field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as failure:
        errors = failure.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        raise ApiError(
            400, "the request is not JSON: " + first["msg"].removeprefix("Invalid JSON: "), code="invalid_json"
        )
    if not first["loc"]:
        raise ApiError(400, "the request is not a JSON object", code="invalid_value")
    field = str(first["loc"][0])
    of_field = [error for error in errors if error["loc"][0] == field]
    messages = dict.fromkeys(_format_location(error["loc"]) + error["msg"] for error in _of_best_form(of_field))
    raise ApiError(400, f"{field}: {'; or '.join(list(messages)[:4])}", param=field, code="invalid_value")


def _of_best_form(errors: Sequence[Any]) -> Sequence[Any]:
    """Of a field with several forms, the errors of the one whose types fit; all, if none does."""
    return [error for error in errors if not error["type"].endswith("_type")] or errors


def _format_location(location: tuple[int | str, ...]) -> str:
    """Location of an error within a field: messages[3].role is "[3].role: "."""
    parts = [part for part in location[1:] if isinstance(part, int) or "[" not in part]  # without names of forms
    inner = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts]
    return "".join(inner).lstrip(".") + ": " if any(isinstance(part, int) for part in location) else ""


def _unknown_field(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name[:100], known, n=1)
    return f"unknown field {_short(name)}" + (f"; is {near[0]} meant?" if near else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
