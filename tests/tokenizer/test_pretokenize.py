"""Pretokenization by array operations equals pretokenization by the regex."""

from itertools import pairwise

import numpy as np
import pytest
from hard_texts import NASTY, PROSE, texts
from hypothesis import given, settings
from tokenizers import Regex, pre_tokenizers

from groundup.recipe.tokenizer_config import Pretokenizer
from groundup.tokenizer.pretokenize import (
    BLANK,
    BREAK,
    LETTER,
    NUMBER,
    SEPARATOR,
    SPACE,
    SPLITTERS,
    SYMBOL,
    character_classes,
)
from groundup.tokenizer.split_patterns import PATTERNS


def by_arrays(name: str, text: str) -> list[str]:
    joined = text + SEPARATOR
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    begins = [*np.flatnonzero(SPLITTERS[name](points)).tolist()]
    assert begins[-1] == len(text)
    return [joined[begin:end] for begin, end in pairwise(begins)]


def by_regex(name: str, text: str) -> list[str]:
    splitter = pre_tokenizers.Split(Regex(PATTERNS[name].regex), "isolated")
    return [pretoken for pretoken, _ in splitter.pre_tokenize_str(text)]


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
    different = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]][:5]
    assert not different  # not the lists: pytest would compare a million pretokens
    assert len(found) == len(expected)


@pytest.mark.parametrize("name", PATTERNS)
def test_pretokens_do_not_cross_documents(name: str):
    documents = [PROSE, "", "  ", "a", "b'", "s", "\n", "\n", "1", "23", "(", "x"]
    pretokens = by_arrays(name, SEPARATOR.join(documents))
    assert pretokens.count(SEPARATOR) == len(documents) - 1
    assert [pretoken for text in documents for pretoken in by_regex(name, text)] == [
        pretoken for pretoken in pretokens if pretoken != SEPARATOR
    ]


def test_property_test_alphabet_has_every_class():
    classes = character_classes()[[ord(character) for character in NASTY]]
    assert set(classes.tolist()) == {LETTER, NUMBER, SPACE, BLANK, BREAK, SYMBOL}
