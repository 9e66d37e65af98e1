"""Jinja's immutable sandbox with a bound on time and memory, for the chat templates of downloaded models.

Every loop iteration, macro, operator, filter, call and output is charged before it runs, by the size of its operands.
Rendering ends when the budget is used up. The count depends on the template and the conversation only, not on a clock.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined

from groundup.tokenizer.template_code import TEXT_SHIFT, ChargingCodeGenerator

BASE_BUDGET = 10_000_000
"""Units of work for any conversation: about two seconds."""
BUDGET_PER_INPUT_UNIT = 400
ELEMENT_UNITS, CALL_UNITS = 4, 20
"""Units of an element of a list, and of a call without its arguments."""
MAX_TEMPLATE_LENGTH = 200_000
MAX_INTEGER_BITS = 4096

COLLECTIONS = (list, tuple, *(type(view) for view in ({}.keys(), {}.values(), {}.items())))
TEXT_METHODS = (
    "capitalize", "casefold", "center", "count", "endswith", "find", "format", "format_map", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
    "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
    "upper", "zfill",
)  # fmt: skip
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(TEXT_METHODS),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    LoopContext: frozenset(("cycle", "changed")),
}
"""Methods that a template may call, by type of the object."""
CONSTANT_TIME_FILTERS = frozenset(("length", "count", "first", "default", "d", "safe"))
FAST_FILTERS = frozenset((
    "attr", "capitalize", "e", "escape", "float", "format", "indent", "int", "lower", "replace", "reverse", "string", "title",
    "tojson", "trim", "truncate", "upper",
))  # fmt: skip
"""Filters that take much less time for a letter of a text than for an element of a list."""
REMOVED_FILTERS = (
    "batch", "center", "filesizeformat", "forceescape", "pprint", "random", "slice", "striptags", "urlencode", "urlize",
    "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip
COMPARING_TESTS = (
    "eq", "==", "equalto", "ne", "!=", "gt", ">", "greaterthan", "ge", ">=", "lt", "<", "lessthan", "le", "<=", "in",
    "lower", "upper",
)  # fmt: skip


class TemplateEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The environment of chat templates: as in transformers, without the functions that no chat template uses."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, extensions: list[type[jinja2.ext.Extension]]):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[*extensions, jinja2.ext.loopcontrols],
            finalize=_charge_output,
            optimized=False,  # constant expressions would be computed without a budget
        )
        self.code_generator_class = ChargingCodeGenerator
        self._budget = threading.local()
        for name in REMOVED_FILTERS:
            del self.filters[name]
        self.filters |= {"tojson": self._to_json, "sum": _sum_numbers, "int": _to_int, "round": _round}
        self.filters |= {
            name: self._sized(name, self.filters[name]) for name in ("join", "replace", "indent", "format")
        }
        self.filters |= {
            name: self._charged(name, function)
            for name, function in self.filters.items()
            if name not in CONSTANT_TIME_FILTERS
        }
        self.tests |= {name: self._charged(name, self.tests[name]) for name in COMPARING_TESTS}
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_template_error,
            "strftime_now": self._now,
        }
        self._functions = frozenset(map(id, self.globals.values()))

    # ---- the budget

    def start(self, names: Any, now: datetime) -> None:
        """A new budget for a template with these names, and the date that it sees."""
        self._budget.now = now
        self._budget.left = BASE_BUDGET
        self._budget.left += BUDGET_PER_INPUT_UNIT * self._measure(names)

    def _now(self, form: str) -> str:
        now: datetime = self._budget.now
        return now.strftime(form[:1000])

    def tick(self, units: int) -> bool:
        """Charge `units`. Always true, so that it can be part of a condition. Raises SecurityError."""
        self._budget.left -= units
        if self._budget.left < 0:
            raise SecurityError("the template takes too much time or memory")
        return True

    def charged(self, value: Any) -> Any:
        """`value`, after a charge for its size."""
        self.tick(1 + (value.__sizeof__() >> TEXT_SHIFT) if type(value) is str else self._measure(value))
        return value

    def charged_slice(self, value: Any) -> Any:
        """`value`, after a charge for a copy of it without its elements."""
        self.tick(1 + (value.__sizeof__() >> TEXT_SHIFT) if hasattr(value, "__len__") else 1)
        return value

    def _measure(self, value: Any) -> int:
        """The units of a value with all that is in it; elements that occur twice count twice."""
        total, values = 0, [value]
        while values:
            value = values.pop()
            total += ELEMENT_UNITS
            if isinstance(value, str | bytes | int):
                total += value.__sizeof__() >> TEXT_SHIFT
            elif isinstance(value, dict):
                values.extend(value)
                values.extend(value.values())
            elif isinstance(value, COLLECTIONS):
                values.extend(value)
            elif isinstance(value, range):
                total += len(value)
            if total + len(values) > self._budget.left:
                self.tick(total + len(values))
        return total

    def _charged_items(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.tick(1)
            yield item

    def _charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test whose arguments and result are charged; four times, for work on every letter."""
        is_fast = name in FAST_FILTERS or name in COMPARING_TESTS

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.tick(4 * self._measure((args, kwargs)))
            if not is_fast:
                self.tick(sum(len(argument) for argument in args if isinstance(argument, str)))
            result = function(*args, **kwargs)
            return self._charged_items(result) if isinstance(result, Iterator) else self.charged(result)

        return call

    # ---- operators, calls and filters whose result can be larger than their operands

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sequence, count = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(count, int) and isinstance(sequence, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_INTEGER_BITS:
                raise OverflowError("a number is too large")
        elif operator == "*" and isinstance(count, int):
            self.tick(max(count, 0) * self._measure(sequence))
        elif operator == "%" and isinstance(left, str):
            self._charge_format(left, right)
        elif operator == "+" or not isinstance(left, int | float) or not isinstance(right, int | float):
            self.charged(left)
            self.charged(right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        self, function = __self, __obj
        owner = getattr(function, "__self__", None)
        if isinstance(owner, jinja2.ext.Extension) or isinstance(function, Macro | LoopContext | BlockReference):
            self.tick(CALL_UNITS)
        elif not isinstance(function, Undefined) and id(function) not in self._functions:
            name = str(getattr(function, "__name__", ""))
            if not any(isinstance(owner, kind) and name in names for kind, names in METHODS.items()):
                raise SecurityError(f"a chat template may not call {name or type(function).__name__}")
            if isinstance(owner, list | tuple):  # count and index compare with every element
                self.charged(owner)
            if isinstance(owner, str):
                args = self._charge_text_method(owner, name, args)
        self.tick(CALL_UNITS + self._measure((args, kwargs)))
        result = super().call(__context, function, *args, **kwargs)
        return self._charged_items(result) if isinstance(result, Iterator) else self.charged(result)

    def _charge_text_method(self, text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        size = len(text) >> 2
        if name == "join" and args:
            items = list(args[0])
            size = self._measure(items) + len(items) * len(text)
            args = (items, *args[1:])
        elif name == "replace" and len(args) > 1:
            size += text.count(args[0]) * len(args[1])
        elif name in ("center", "ljust", "rjust", "zfill") and args:
            size += args[0]
        elif "strip" in name or name[0] == "r":  # the search is quadratic
            size *= 1 + sum(len(argument) >> 3 for argument in args if isinstance(argument, str))
        self.tick(1 + max(size, 0) if isinstance(size, int) else 1)
        return args

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__
        formatter = _Formatter(self)

        def call(*args: Any, **kwargs: Any) -> str:
            return formatter.vformat(text, args, args[0] if value.__name__ == "format_map" else kwargs)

        call.__name__ = value.__name__
        call.__self__ = text  # type: ignore[attr-defined]
        return call

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            self.charged(argument)
        return super().getitem(obj, argument)

    def _charge_format(self, text: str, values: Any) -> None:
        if re.search(r"%[^a-zA-Z%]*?(\*|\d{4})", text):
            raise OverflowError("a field is too wide")
        self.tick((1 + text.count("%")) * self._measure(values) + self._measure(text))

    def _sized(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose result can be larger than its arguments, with a charge for the result before it is computed."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "join":
                context, items, *rest = args
                items = list(items)
                separator = rest[0] if rest else kwargs.get("d", "")
                self.tick(len(items) * (1 + self._measure(separator)))
                args = (context, items, *rest)
            elif name == "replace":
                context, text, old, new, *_ = (*args, *kwargs.values())
                self.tick(str(text).count(str(old)) * (1 + len(str(new))))
            elif name == "indent":
                text, width = str(args[0]), args[1] if len(args) > 1 else kwargs.get("width", 4)
                self.tick((1 + len(text.splitlines())) * (len(width) if isinstance(width, str) else max(int(width), 0)))
            else:
                self._charge_format(str(args[0]), (args[1:], kwargs))
            return function(*args, **kwargs)

        return call

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """`tojson` without Jinja's HTML escapes. Placeholders are not escaped: they are replaced later."""
        if indent is None and separators is None:
            text = json.dumps(value, ensure_ascii=False, sort_keys=sort_keys)
        else:
            encoder = json.JSONEncoder(
                ensure_ascii=False,
                indent=min(indent, 100) if isinstance(indent, int) else indent,
                separators=separators,
                sort_keys=sort_keys,
            )
            text = "".join(map(self.charged, encoder.iterencode(value)))
        if not ensure_ascii:
            return text
        self.tick(len(text))
        return re.sub(
            r"[^\x00-\x7f]", lambda match: match[0] if ord(match[0]) >= 0x10FF00 else json.dumps(match[0])[1:-1], text
        )


class _Formatter(jinja2.sandbox.SandboxedFormatter):
    """`str.format` with a charge for each field before it is formatted."""

    _env: TemplateEnvironment

    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{4}", format_spec):
            raise OverflowError("a field is too wide")
        self._env.charged(value)
        return super().format_field(value, format_spec)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore, which escape the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template may not store {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # its values could contain each other many times


@jinja2.pass_context
def _charge_output(context: jinja2.runtime.Context, value: Any) -> Any:
    environment: Any = context.environment
    return environment.charged(value)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


@jinja2.pass_environment
def _sum_numbers(environment: jinja2.Environment, values: Any, attribute: Any = None, start: float = 0) -> float:
    """Jinja's `sum` of numbers; that of lists is quadratic."""
    total = start
    for value in values if attribute is None else map(make_attrgetter(environment, attribute), values):
        if not isinstance(value, int | float) or not isinstance(total, int | float):
            raise TypeError("sum: expected numbers")
        total += value
    return total


def _to_int(value: Any, default: int = 0, base: int = 10) -> int:
    return default if isinstance(value, str) and len(value) > 1000 else FILTERS["int"](value, default, base)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    return FILTERS["round"](value, max(min(precision, 300), -300), method)
