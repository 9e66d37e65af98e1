"""Differences between two nested tables, as lines of text."""

import json
from typing import Any


def list_differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines like `train.learning_rate: 0.0003 -> 0.0001` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in [*old, *(key for key in new if key not in old)]:
            lines += list_differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for line in list_differences(a, b, f"{prefix}[{i}]")
        ]
    return [] if old == new else [f"{prefix}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
