"""Rewards that a program can verify: an answer that equals the known one, a pattern, a format, a length, unit tests.

A reward is a function of the answer's text and its problem, (text, problem) -> number, as a rule from 0 to 1. Models find what
a reward does not forbid: an exact answer is hard to cheat; a length or a format alone is not worth learning.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from groundup.artifacts.bounded_regex import RegexTimeout, regex_matches
from groundup.artifacts.errors import UserError
from groundup.evaluate.code_sandbox import passes_tests

NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?[$\u20ac\u00a3]?\s?(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(?:\s?/\s?(\d+))?(?![\w])"
)
MAX_DIGITS = 100
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
"""A text that is one formula of LaTeX."""
CODE_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """A prompt whose answers can be verified.

    Attributes:
        messages: the prompt: [{"role": "user", "content": "What is 2 + 3?"}], as for a chat template.
        answer: the known answer, for rewards that compare with it.
        fields: other fields of the record, such as `tests`.
    """

    messages: tuple[dict[str, str], ...]
    answer: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((each["content"] for each in reversed(self.messages) if each["role"] == "user"), "")


RewardFunction = Callable[[str, Problem], float]


def exact_answer(text: str, problem: Problem) -> float:
    """1 if the final answer of the text equals the known answer, as a number if that is one, else 0.

    >>> exact_answer("2 + 3 is 5, and 5 * 10 = 50.0", Problem((), "#### 50"))
    1.0
    """
    expected = final_answer(problem.answer or "")
    if (number := as_number(expected)) is not None:
        return float(as_number(final_answer(text, numeric=True)) == number)
    return float(bool(expected.strip()) and plain_words(final_answer(text)) == plain_words(expected))


def final_answer(text: str, *, numeric: bool = False) -> str:
    r"""What stands after the last ####, else in the last \boxed{}, else the last number if `numeric`, else the whole text.

    >>> final_answer(r"so we get \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    _, marker, after = text.rpartition("####")
    if marker:
        text = after.strip().split("\n")[0]
    elif (boxed := _last_boxed(text)) is not None:
        text = boxed
    if (formula := FORMULA.fullmatch(text.strip())) is not None:
        text = formula[1] or formula[2] or formula[3]
    if numeric and as_number(text) is None:
        return next((found for found in reversed(_numbers(text))), "")
    return text.strip()


def _last_boxed(text: str) -> str | None:
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return None
    begin += len("\\boxed{")
    depth = 1
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return text[begin:index]
    return None


def _numbers(text: str) -> list[str]:
    return [match[0].strip() for match in NUMBER.finditer(text) if match[1] or match[2]]


def as_number(text: str) -> Fraction | None:
    """The number that a text is, with thousands, currency and percent signs; None if it is something else.

    >>> as_number("$1,250.50") == as_number("1250.5")
    True
    """
    text = text.strip().rstrip(".").rstrip("%").strip()
    match = NUMBER.fullmatch(text)
    if match is None or not (match[1] or match[2]) or len(text) > MAX_DIGITS:
        return None
    whole, decimals, divisor = match[1] or "0", match[2] or "", match[3] or "1"
    if int(divisor) == 0:
        return None
    value = Fraction(whole.replace(",", "") + decimals) / int(divisor)
    return -value if text[0] in "-\u2212" else value


def plain_words(text: str) -> str:
    """Lower case, without punctuation at the ends of words and with single spaces."""
    words = (word.strip(".,;:!?\"'()[]*$") for word in text.casefold().split())
    return " ".join(word for word in words if word)


def matches_pattern(text: str, problem: Problem, *, pattern: str, timeout_seconds: float = 5.0) -> float:
    """1 if the regular expression is found in the text, else 0, also where that takes longer than `timeout_seconds`.

    A dot matches every character.
    """
    return _matches(pattern, text, False, timeout_seconds)


def has_format(text: str, problem: Problem, *, pattern: str, timeout_seconds: float = 5.0) -> float:
    """As `matches_pattern`, of the whole text without white space around it."""
    return _matches(pattern, text.strip(), True, timeout_seconds)


def _matches(pattern: str, text: str, whole: bool, seconds: float) -> float:
    try:
        return float(regex_matches(pattern, text, whole=whole, flags=re.DOTALL, seconds=seconds))
    except RegexTimeout:
        return 0.0


def short_enough(text: str, problem: Problem, *, max_characters: int) -> float:
    """1 up to so many characters, 0 from twice as many, in between a straight line."""
    return min(1.0, max(0.0, 2.0 - len(text) / max_characters))


def unit_tests(text: str, problem: Problem, *, timeout_seconds: float) -> float:
    """1 if the program in the text passes the `tests` of the problem in the sandbox, else 0; see code_sandbox.py.

    The program is the last code block, else the whole text. `tests` is Python; a list is joined by lines.
    """
    tests = problem.fields.get("tests", "")
    blocks = CODE_BLOCK.findall(text)
    lines = "\n".join(map(str, tests)) if isinstance(tests, list) else str(tests)
    return float(passes_tests(blocks[-1] if blocks else text, lines, timeout_seconds=timeout_seconds))


@dataclass(frozen=True)
class WeightedReward:
    """A sum of rewards with weights; the first one says whether a problem is solved.

    Attributes:
        parts: (name, weight, function) of each.
    """

    parts: tuple[tuple[str, float, RewardFunction], ...]

    def score(self, text: str, problem: Problem) -> tuple[float, ...]:
        """The value of each part. Raises UserError for one that is no finite number."""
        values = []
        for name, _, function in self.parts:
            value = function(text, problem)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"reward {name} returned {value!r}, expected a finite number")
            values.append(float(value))
        return tuple(values)

    def total(self, values: Sequence[float]) -> float:
        return math.fsum(weight * value for (_, weight, _), value in zip(self.parts, values, strict=True))


def check_pattern(pattern: str) -> str:
    """The pattern. Raises UserError for one that is none."""
    try:
        re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UserError(f"pattern {pattern!r}: {error}", hint="expected a regular expression of Python's re") from None
    return pattern


def load_function(location: str) -> RewardFunction:
    """The function that `path/to/file.py:function` names. The file is run: only for files that the user trusts.

    Raises UserError if there is none, or the file cannot be run.
    """
    path, _, name = location.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise UserError(f"{location}: no such file, expected path/to/file.py:function")
    spec = importlib.util.spec_from_file_location("reward_functions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}", hint="run it with python first") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path} has no function {name}", hint=f"expected def {name}(text, problem): return a number")
    return partial(_call, function, location)


def _call(function: Callable[..., Any], location: str, text: str, problem: Problem) -> float:
    try:
        return function(text, problem)
    except Exception as error:
        raise UserError(f"reward {location}: {type(error).__name__}: {error}") from None
