"""Checks of arguments of public functions: each raises a UserError of one line."""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress

T = TypeVar("T")


def check_text(text: str) -> None:
    """Raise UserError for anything but one text."""
    if not isinstance(text, str):
        plural = isinstance(text, list | tuple)
        raise UserError(
            f"text is a {type(text).__name__}, expected a str",
            hint="call the function for each text" if plural else 'bytes.decode("utf-8") makes a str of bytes',
        )


def iter_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts one by one. Raises UserError for one text where several are expected, and for a value that is no text."""
    if isinstance(texts, str | bytes):
        raise UserError(
            f"texts is one {type(texts).__name__}, expected a list of texts", hint="put it in a list: [text]"
        )
    return _checked(texts, (str,))


def apply_to_texts(
    function: Callable[[Any], T],
    texts: Any,
    name: str,
    progress: Progress | None = None,
    kinds: tuple[type, ...] = (str,),
) -> T | list[T]:
    """`function` of one text, or of each of several, with a progress bar called `name`."""
    if isinstance(texts, kinds):
        return function(texts)
    total = len(texts) if isinstance(texts, Sized) else None
    results: list[T] = []
    with (progress or Progress()).task(name, total=total, unit="texts") as task:
        for text in _checked(texts, kinds):
            results.append(function(text))
            task.advance()
    return results


def _checked(texts: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    if isinstance(texts, Mapping | str | bytes) or not isinstance(texts, Iterable):
        raise UserError(f"texts is a {type(texts).__name__}, expected a list of texts")
    return _checked_items(texts, kinds)


def _checked_items(texts: Iterable[Any], kinds: tuple[type, ...]) -> Iterator[Any]:
    for index, text in enumerate(texts):
        if not isinstance(text, kinds):
            hint = "the text of a document is document.text" if hasattr(text, "text") else "convert or remove it"
            raise UserError(f"texts[{index}] is a {type(text).__name__}, expected a str", hint=hint)
        yield text


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
