import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.plan.tell import operations
from groundup.report import wording
from groundup.report.wording import SPACE


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.count(5_212_416), f"5.21{SPACE}million"),
        (wording.count(140e9), f"140{SPACE}billion"),
        (wording.count(12_500), "12,500"),
        (wording.short_count(20_480_000), f"20.5{SPACE}M"),
        (wording.size(999), f"999{SPACE}B"),
        (wording.size(6_411_000), f"6.41{SPACE}MB"),
        (wording.duration(7.72), f"7.7{SPACE}s"),
        (wording.duration(9.99), f"10{SPACE}s"),
        (wording.duration(75), f"1{SPACE}min 15{SPACE}s"),
        (wording.duration(120), f"2{SPACE}min"),
        (wording.duration(5_430), f"1{SPACE}h 30{SPACE}min"),
        (wording.duration(66 * 3600), f"66{SPACE}h"),
        (wording.duration(10 * 86_400), f"10.0{SPACE}days"),
        (wording.share(1, 3), "33%"),
        (wording.share(1, 30), "3.3%"),
        (wording.share(1, 3_000), "<0.1%"),
        (wording.share(0, 3), "0%"),
        (wording.share(0, 0), "–"),
        (wording.interval([1.377, 1.449], 2), "1.38 to 1.45"),
        (wording.interval(None), "–"),
        (wording.plural(1, "step"), "1 step"),
        (wording.plural(2_000, "step"), "2,000 steps"),
        (wording.listing(["a", "b", "c"]), "a, b and c"),
        (wording.listing([]), ""),
        (operations(6.4e14), "640 teraFLOP"),
        (wording.excerpt("one two three", 8), "one two …"),
        (wording.excerpt("a\nb\nc", 100, lines=2), "a\nb …"),
        (wording.excerpt("\nwhole\n", 100), "whole"),
    ],
)
def test_said_as_one_says_it(said, expected):
    assert said == expected


@given(st.text())
def test_printable_text_is_text_that_files_and_pages_can_hold(text):
    shown = wording.printable(text)
    shown.encode()
    assert not any((ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert wording.printable(shown) == shown


@given(st.text(), st.integers(1, 50), st.integers(1, 4))
def test_excerpts_are_short(text, characters, lines):
    found = wording.excerpt(text, characters, lines)
    assert len(found) <= characters + 2
    assert found.count("\n") < lines
