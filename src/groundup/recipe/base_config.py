"""What every table of a recipe has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class BaseConfig(BaseModel):
    """A frozen table of knobs that refuses what it does not know and calls no value by another type's name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def knob(default: Any = ..., meaning: str = "", **bounds: Any) -> Any:
    """A knob with its default and its meaning, which `groundup explain` and the book print.

    A default of None says: derived by the plan, or off; the meaning tells which.
    """
    return Field(default, description=meaning, **bounds)
