"""Faults of foreign tokenizers inside the `tokenizers` library: its panics as one line, and regexes without an end."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten

TOKEN_OF_REGEX = re.compile(r"\\.|\(\?[>=!]|\(\?<[=!]|\(|\)|\{(\d*)(,?)(\d*)\}|[*+]|.", re.DOTALL)
MAX_GROWTH = 100
"""Characters that the replacements of a tokenizer.json may make of one."""

MANY = 100
"""Repetitions that count as unbounded."""


@contextmanager
def library_errors(source: object, hint: str) -> Iterator[None]:
    """Exceptions and panics of the library as UserErrors; a panic derives from BaseException alone."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{source}: {' '.join(str(error).split())}", hint=hint) from None


@contextmanager
def encoding_errors(texts: Sequence[str]) -> Iterator[None]:
    """`library_errors` for the encoding of texts: a lone surrogate, which UTF-8 cannot express, is named."""
    try:
        with library_errors(
            "the tokenizer cannot encode a text", "is its tokenizer.json intact? create or download it again"
        ):
            yield
    except UserError:
        for index, text in enumerate(texts):
            if match := re.search("[\ud800-\udfff]", text):
                raise UserError(
                    f"texts[{index}] has a lone surrogate, U+{ord(match[0]):04X}, at character {match.start()}, which no "
                    "tokenizer can encode",
                    hint='text.encode("utf-8", "replace").decode() replaces it',
                ) from None
        raise


def check_rules(backend: tokenizers.Tokenizer, source: object) -> None:
    """Raise UserError for rules that take hours or gigabytes: see `_check_regex` and `_growth`."""
    for part in (backend.normalizer, backend.pre_tokenizer, backend.decoder):
        if part is None:
            continue
        try:
            rules = json.loads(part.__getstate__())
        except Exception:  # parts written in Python have no state; a tokenizer.json has none of them
            continue
        for pattern in _patterns(rules):
            _check_regex(pattern, source)
        if (growth := _growth(rules)) > MAX_GROWTH:
            raise UserError(
                f"{source}: replacements make up to {growth:,.0f} characters of one, expected {MAX_GROWTH} at most",
                hint="make or fetch it again",
            )


def _check_regex(pattern: str, source: object) -> None:
    """A repetition in a repetition, such as (a+)+, takes exponential time.

    The engine (Oniguruma) bounds the time of one match only, to seconds. Not every such regex is slow: it is tried.
    """
    if has_nested_repetition(pattern) and _is_slow(pattern):
        raise UserError(
            f"{source}: the regex {shorten(pattern)} repeats a repetition, which can take hours",
            hint="write it without one group with + or * inside another",
        )


def _growth(rules: dict[str, Any]) -> float:
    """Characters that a normalizer or decoder makes of one, at most, by its replacements."""
    if rules["type"] == "Sequence":
        return math.prod(_growth(step) for name in ("normalizers", "decoders") for step in rules.get(name, ()))
    if rules["type"] == "Replace":
        return max(1.0, len(rules["content"]) / max(len(rules["pattern"].get("String", "")), 1))
    return max(1.0, float(len(rules.get("prepend", ""))))


def has_nested_repetition(pattern: str) -> bool:
    """Is a group with an unbounded repetition in it repeated without bound? Atomic groups and lookarounds end early."""
    groups = [(False, False)]  # of each open group: atomic or a lookaround; contains an unbounded repetition
    closed = (False, False)  # of the last element
    in_class = 0
    for match in TOKEN_OF_REGEX.finditer(pattern):
        token = match[0]
        if token == "[":
            in_class += 1
        elif token == "]" and in_class:
            in_class -= 1
            closed = (False, False)
            continue
        if in_class:
            continue
        if token[0] == "(":
            groups.append((len(token) > 1, False))
        elif token == ")" and len(groups) > 1:
            closed = groups.pop()
            if not closed[0]:
                groups[-1] = (groups[-1][0], groups[-1][1] or closed[1])
        elif token in "*+" or (
            match[2] is not None and int(match[3] or ("0" if match[1] and not match[2] else MANY)) >= MANY
        ):
            if closed == (False, True):
                return True
            groups[-1] = (groups[-1][0], True)
        else:
            closed = (False, False)
    return False


def _is_slow(pattern: str) -> bool:
    """Does a match of a run of one letter, of those in the pattern or usual ones, exceed the engine's limit?"""
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    try:
        for letter in sorted(set("aA1 \n" + pattern))[:200]:
            split.pre_tokenize_str(letter * 40 + "\0")
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return True
    return False


def _patterns(rules: Any) -> Iterator[str]:
    if isinstance(rules, dict):
        if isinstance(regex := rules.get("Regex"), str):
            yield regex
        for value in rules.values():
            yield from _patterns(value)
    elif isinstance(rules, list):
        for value in rules:
            yield from _patterns(value)
