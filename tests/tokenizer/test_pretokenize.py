"""Cutting by array operations is cutting by the regex."""

from itertools import pairwise

import numpy as np
import pytest
from hard_texts import NASTY, PROSE, texts
from hypothesis import given, settings
from tokenizers import Regex, pre_tokenizers

from groundup.recipe.tokenizer_config import Pretokenizer
from groundup.tokenizer.pretokenize import SEPARATOR, SPLITTERS
from groundup.tokenizer.split_patterns import PATTERNS


def by_arrays(name: str, text: str) -> list[str]:
    joined = text + SEPARATOR
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = [*np.flatnonzero(SPLITTERS[name](points)).tolist()]
    assert places[-1] == len(text)
    return [joined[begin:end] for begin, end in pairwise(places)]


def by_regex(name: str, text: str) -> list[str]:
    splitter = pre_tokenizers.Split(Regex(PATTERNS[name].regex), "isolated")
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


def test_recipe_pretokenizers_equal_the_implemented_ones():
    assert set(Pretokenizer.__args__) == set(PATTERNS) == set(SPLITTERS)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(
    "text",
    [
        "", "a", "'", "'s", "'S'ſ'LL've'x''s (a ((a  (a", " 's 's\t's1's", "I'll they'RE we'd'ved 'tis", "12345678 90",
        " \n a", "a  \n\n  \n  b", "!\n\n  x", "!\r\n\t\n x", "\n\n", "  ", "a ", " \t1", "\t(", " (x)", "((x", "e\u0301x",
    ],
)  # fmt: skip
def test_pretokenization_corner_cases(name: str, text: str):
    assert by_arrays(name, text) == by_regex(name, text)


@pytest.mark.parametrize("name", PATTERNS)
@given(text=texts)
@settings(max_examples=400, deadline=None)
def test_splitter_equals_the_regex_on_any_text(name: str, text: str):
    assert by_arrays(name, text) == by_regex(name, text)


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
def test_splitter_equals_the_regex_on_every_code_point(name: str):
    points = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    text = "".join(f"a{point} {point}\n" for point in points[:0x33000] + points[0x33000::251])
    found, expected = by_arrays(name, text), by_regex(name, text)
    wrong = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]][:5]
    assert not wrong  # not the lists themselves: pytest would compare a million pieces
    assert len(found) == len(expected)


@pytest.mark.parametrize("name", PATTERNS)
def test_pretokens_do_not_cross_documents(name: str):
    parts = [PROSE, "", "  ", "a", "b'", "s", "\n", "\n", "1", "23", "(", "x"]
    joined = SEPARATOR.join(parts)
    pieces = "|".join(by_arrays(name, joined)).split(f"|{SEPARATOR}|") if parts else []
    assert [piece for part in parts for piece in by_regex(name, part)] == [
        piece for piece in by_arrays(name, joined) if piece != SEPARATOR
    ]
    assert len(pieces) <= len(parts)


def test_property_test_alphabet_has_every_class():
    assert {by_regex("gpt4", letter + "a")[0] for letter in NASTY}  # none of it breaks the regex engine
