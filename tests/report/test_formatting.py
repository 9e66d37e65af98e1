import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.plan.plan_table import format_flops
from groundup.report import formatting
from groundup.report.formatting import NO_BREAK_SPACE


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (formatting.count(5_212_416), f"5.21{NO_BREAK_SPACE}million"),
        (formatting.count(140e9), f"140{NO_BREAK_SPACE}billion"),
        (formatting.count(12_500), "12,500"),
        (formatting.short_count(20_480_000), f"20.5{NO_BREAK_SPACE}M"),
        (formatting.byte_size(999), f"999{NO_BREAK_SPACE}B"),
        (formatting.byte_size(6_411_000), f"6.41{NO_BREAK_SPACE}MB"),
        (formatting.duration(7.72), f"7.7{NO_BREAK_SPACE}s"),
        (formatting.duration(9.99), f"10{NO_BREAK_SPACE}s"),
        (formatting.duration(75), f"1{NO_BREAK_SPACE}min 15{NO_BREAK_SPACE}s"),
        (formatting.duration(120), f"2{NO_BREAK_SPACE}min"),
        (formatting.duration(5_430), f"1{NO_BREAK_SPACE}h 30{NO_BREAK_SPACE}min"),
        (formatting.duration(66 * 3600), f"66{NO_BREAK_SPACE}h"),
        (formatting.duration(10 * 86_400), f"10.0{NO_BREAK_SPACE}days"),
        (formatting.percent(1, 3), "33%"),
        (formatting.percent(1, 30), "3.3%"),
        (formatting.percent(1, 3_000), "<0.1%"),
        (formatting.percent(0, 3), "0%"),
        (formatting.percent(0, 0), "–"),
        (formatting.interval([1.377, 1.449], 2), "1.38 to 1.45"),
        (formatting.interval(None), "–"),
        (formatting.pluralize(1, "step"), "1 step"),
        (formatting.pluralize(2_000, "step"), "2,000 steps"),
        (formatting.join_words(["a", "b", "c"]), "a, b and c"),
        (formatting.join_words([]), ""),
        (format_flops(6.4e14), "640 teraFLOP"),
        (formatting.excerpt("one two three", 8), "one two …"),
        (formatting.excerpt("a\nb\nc", 100, max_lines=2), "a\nb …"),
        (formatting.excerpt("\nwhole\n", 100), "whole"),
    ],
)
def test_formatting(formatted, expected):
    assert formatted == expected


@given(st.text())
def test_sanitized_text(text):
    shown = formatting.sanitize_text(text)
    shown.encode()
    assert not any((ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert formatting.sanitize_text(shown) == shown


@given(st.text(), st.integers(1, 50), st.integers(1, 4))
def test_excerpt_limits(text, characters, lines):
    found = formatting.excerpt(text, characters, lines)
    assert len(found) <= characters + 2
    assert found.count("\n") < lines
