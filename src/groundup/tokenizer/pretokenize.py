"""Cut millions of characters into pieces at once, without a regex engine.

Whether a piece begins at a character follows from its class (letter, number, line break, other white space, symbol),
from the class before it, and in a few cases from the run of equal classes that it is in. So the rules of split_patterns.py
become a handful of operations on whole arrays. The regex, run by the `tokenizers` library, is the oracle.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import pyarrow
from tokenizers import Regex, pre_tokenizers

SEPARATOR = "\ud800"
"""Stands between documents: a lone surrogate, which no UTF-8 text can contain. It is always a piece of its own."""

LETTER, NUMBER, SPACE, BLANK, BREAK, SYMBOL, END = range(7)
"""Classes of characters: SPACE is U+0020, BREAK is CR or LF, BLANK any other white space, END the separator."""

CLASSIFIED_LIMIT = 0x32400
"""No letter, number or white space has a code point from here on (Unicode 16)."""


@cache
def character_classes() -> np.ndarray:
    """The class of every code point (1114112,), as the library's own regex engine sees it."""
    points = np.array([point for point in range(CLASSIFIED_LIMIT) if not 0xD800 <= point < 0xE000])
    text = "".join(map(chr, points))
    table = np.full(0x110000, SYMBOL, np.uint8)
    for number, regex in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (BLANK, r"\s+")):
        runs = pre_tokenizers.Split(Regex(regex), "removed", invert=True).pre_tokenize_str(text)
        for _, (begin, end) in runs:
            table[points[begin:end]] = number
    table[ord(" ")] = SPACE
    table[[ord("\r"), ord("\n")]] = BREAK
    table[ord(SEPARATOR)] = END
    return table


def split_gpt4(points: np.ndarray, digits: int = 3) -> np.ndarray:
    """Where pieces begin, by the rules of gpt4, with at most `digits` digits in a piece.

    points: code points of a text that ends with the separator, uint32 (n,). Returns bool (n,).
    """
    kind = character_classes()[points]
    begins = _split_by_class_pair(kind, _GPT4)
    following = np.append(kind[1:], END)
    blank = (kind == SPACE) | (kind == BLANK)
    # \s+(?!\S)|\s+ : the last blank before a word, number or symbol begins a piece, and may take what follows along.
    begins |= blank & _IS_VISIBLE[following]
    # [^\r\n\p{L}\p{N}]?\p{L}+ : a single symbol that begins a piece takes the word behind it along.
    lone = np.flatnonzero(_lone_symbols(kind) & (following == LETTER))
    begins[lone + 1] = False
    marks, letters = _contractions(points, lone, ignore_case=True)
    behind = marks + 1 + letters
    begins[behind[kind[behind] == LETTER]] = True
    # \p{N}{1,3} : a long number is cut from its beginning.
    numbers = np.flatnonzero(kind == NUMBER)
    places = np.arange(len(numbers))
    runs = np.maximum.accumulate(np.where(np.diff(numbers, prepend=-2) > 1, places, 0))
    begins[numbers] = (places - runs) % digits == 0
    # \s*[\r\n]+ : white space is one piece up to its last line break; what is left of the run begins the next.
    # [^\s\p{L}\p{N}]+[\r\n]* : but line breaks directly behind symbols belong to those.
    first, last = _true_intervals(kind == BREAK)
    behind_symbol = kind[first - 1] == SYMBOL
    ends_in_blank = blank[last + 1]
    blanks_first, blanks_last = _true_intervals(blank)
    place = (last + 1)[ends_in_blank]
    run_end = blanks_last[np.searchsorted(blanks_first, place)]
    begins[place] |= behind_symbol[ends_in_blank] | (kind[run_end + 1] != BREAK)
    return begins


def split_gpt2(points: np.ndarray) -> np.ndarray:
    """Where pieces begin, by the rules of gpt2. As `split_gpt4`."""
    kind = character_classes()[points]
    kind[kind == BREAK] = BLANK
    begins = _split_by_class_pair(kind, _GPT2)
    following = np.append(kind[1:], END)
    # \s+(?!\S)|\s+ : the last blank of a run begins a piece, and a space takes what follows along.
    begins |= ((kind == SPACE) | (kind == BLANK)) & _IS_VISIBLE[following]
    lone = np.flatnonzero(_lone_symbols(kind) & (following == LETTER))
    marks, letters = _contractions(points, lone, ignore_case=False)
    behind = marks + 1 + letters
    begins[marks + 1] = False
    begins[behind[kind[behind] == LETTER]] = True
    return begins


def _split_by_class_pair(kind: np.ndarray, table: np.ndarray) -> np.ndarray:
    """What the classes of a character and of the one before it say: table[before, here]."""
    begins = np.empty(len(kind), bool)
    begins[0] = True
    begins[1:] = table.ravel()[kind[:-1] * np.uint8(7) + kind[1:]]
    return begins


def _class_pair_table(inside: list[tuple[int, int]]) -> np.ndarray:
    """A piece begins where the class changes, but for the pairs in `inside`; and on both sides of the separator."""
    table = ~np.eye(7, dtype=bool)
    for pair in inside:
        table[pair] = False
    table[END, :] = table[:, END] = True
    return table


_WHITE = [(a, b) for a in (SPACE, BLANK, BREAK) for b in (SPACE, BLANK, BREAK)]
_GPT4 = _class_pair_table([*_WHITE, (SPACE, LETTER), (BLANK, LETTER), (SPACE, SYMBOL), (SYMBOL, BREAK)])
_GPT2 = _class_pair_table([*_WHITE, (SPACE, LETTER), (SPACE, NUMBER), (SPACE, SYMBOL)])
_IS_VISIBLE = np.isin(np.arange(7), (LETTER, NUMBER, SYMBOL))


def _lone_symbols(kind: np.ndarray) -> np.ndarray:
    """Symbols without another before or behind them, and without a space that would take them along."""
    symbol = kind == SYMBOL
    lone = symbol.copy()
    lone[1:] &= ~symbol[:-1] & (kind[:-1] != SPACE)
    lone[:-1] &= ~symbol[1:]
    return lone


def _contractions(points: np.ndarray, lone: np.ndarray, ignore_case: bool) -> tuple[np.ndarray, np.ndarray]:
    """Apostrophes that begin 's 't 'm 'd 're 've 'll, and the number of letters they take."""
    marks = lone[points[lone] == ord("'")]
    first, second = points[marks + 1], points[np.minimum(marks + 2, len(points) - 1)]
    if ignore_case:
        long_s = first == 0x17F  # the one other letter that folds to one of these
        first, second = np.where(long_s, ord("s"), first | 0x20), second | 0x20
    one = np.isin(first, [ord(letter) for letter in "stmd"])
    two = ((second == ord("e")) & np.isin(first, [ord("r"), ord("v")])) | (
        (first == ord("l")) & (second == ord("l"))
    )
    letters = np.where(one, 1, np.where(two, 2, 0))
    return marks[letters > 0], letters[letters > 0]


def _true_intervals(member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last places of the runs of True; the last element of `member` is False."""
    steps = np.flatnonzero(member[1:] != member[:-1])
    if member[0]:
        steps = np.concatenate(([-1], steps))
    return steps[::2] + 1, steps[1::2]


SPLITTERS = {"gpt2": split_gpt2, "gpt4": split_gpt4, "qwen2": partial(split_gpt4, digits=1)}
"""For each pattern of split_patterns.py the function that cuts like it."""


def unique_pretokens(
    texts: Sequence[str], splitter: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[bytes], np.ndarray]:
    """The different pieces of some documents as UTF-8, and the sequence of all pieces as numbers of these.

    Each document is followed by the separator. `cut` is one of CUTS.
    """
    joined = SEPARATOR.join([*texts, ""])
    places = np.flatnonzero(splitter(np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)))
    data = np.frombuffer(joined.encode("utf-8", "surrogatepass"), np.uint8)
    if len(data) > len(joined):  # from characters to bytes
        places = np.flatnonzero((data & 0xC0) != 0x80)[places]
    buffers = [None, pyarrow.py_buffer(np.append(places, len(data))), pyarrow.py_buffer(data)]
    pieces = pyarrow.Array.from_buffers(pyarrow.large_binary(), len(places), buffers).dictionary_encode()
    return pieces.dictionary.to_pylist(), pieces.indices.to_numpy()
