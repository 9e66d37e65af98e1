"""A self-contained page on which people rate answers side by side without knowing whose they are."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from groundup.artifacts.sanitize import sanitize_text

TEMPLATE = "rating_page.html"
DATA = "RATING_DATA"
"""Placeholder in the template."""


def rating_page(pairs: Sequence[Mapping[str, str]], choices: Sequence[str]) -> str:
    """HTML with everything in it: no other file and no network is needed. The browser keeps ratings until they are saved.

    Args:
        pairs: fields of `groundup.evaluate.comparison.rating_pairs.RatingPair`.
    """
    rows = [{name: sanitize_text(value) for name, value in pair.items()} for pair in pairs]
    # in a script element, "</script" and "<!--" would end or change it
    data = json.dumps({"pairs": rows, "choices": list(choices)}, ensure_ascii=True).replace("<", "\\u003c")
    template = files("groundup.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return template.replace(DATA, data, 1)
