"""Checks of arguments of public functions: each raises a UserError of one line."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from groundup.artifacts.errors import UserError


def check_texts(texts: Iterable[str]) -> None:
    """Raise UserError for one text where several are expected."""
    if isinstance(texts, str | bytes):
        raise UserError(
            f"texts is one {type(texts).__name__}, expected a list of texts", hint="put it in a list: [text]"
        )


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raise UserError for a value that is not in `known`."""
    if value not in known:
        raise UserError(f"{name} = {value!r}, expected one of {', '.join(known)}")


def unknown_option(name: str, known: Iterable[str]) -> UserError:
    """The error for an option that does not exist, with the nearest one: by spelling, or by initials (lr)."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    near = near or [option for option in known if "".join(word[:1] for word in option.split("_")) == name]
    return UserError(
        f"unknown option {name}", hint=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
    )
