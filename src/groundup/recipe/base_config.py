"""The base class of all recipe tables, and the declaration of a knob."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class BaseConfig(BaseModel):
    """A frozen table of knobs that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def knob(default: Any = ..., meaning: str = "", *, unset: str = "", **bounds: Any) -> Any:
    """A field with its default and its meaning, which `groundup explain` and the book print.

    `unset` says what a default of None stands for, such as "derived: 2% of train.steps" or "off".
    """
    return Field(default, description=meaning, json_schema_extra={"unset": unset} if unset else None, **bounds)
