"""Pretokenization of millions of characters by array operations, without a regex engine.

Whether a pretoken begins at a character follows from its class (letter, number, line break, other white space, symbol),
from the class before it, and in a few cases from the sequence of equal classes around it. So the regexes of
split_patterns.py become a few operations on whole arrays. The regex in the `tokenizers` library is the oracle.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from tokenizers import Regex, pre_tokenizers

SEPARATOR = "\ud800"
"""Separates documents: a lone surrogate, which no UTF-8 text contains; always a pretoken by itself."""

LETTER, NUMBER, SPACE, BLANK, BREAK, SYMBOL, END = range(7)
"""Character classes: SPACE is U+0020, BREAK is CR or LF, BLANK any other white space, END the separator."""

CLASSIFIED_LIMIT = 0x32400
"""All letters, numbers and white space are below this code point (Unicode 16)."""


@cache
def character_classes() -> np.ndarray:
    """The class of every code point (1114112,), by the regex engine of the `tokenizers` library."""
    points = np.array([point for point in range(CLASSIFIED_LIMIT) if not 0xD800 <= point < 0xE000])
    text = "".join(map(chr, points))
    table = np.full(0x110000, SYMBOL, np.uint8)
    for character_class, regex in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (BLANK, r"\s+")):
        matches = pre_tokenizers.Split(Regex(regex), "removed", invert=True).pre_tokenize_str(text)
        for _, (begin, end) in matches:
            table[points[begin:end]] = character_class
    table[ord(" ")] = SPACE
    table[[ord("\r"), ord("\n")]] = BREAK
    table[ord(SEPARATOR)] = END
    return table


def split_gpt4(points: np.ndarray, digits: int = 3) -> np.ndarray:
    """Beginnings of pretokens by the gpt4 pattern, with at most `digits` digits per pretoken.

    points: code points of a text that ends with the separator, uint32 (n,). Returns bool (n,).
    """
    classes = character_classes()[points]
    begins = _split_by_class_pair(classes, _GPT4)
    following = np.append(classes[1:], END)
    blank = (classes == SPACE) | (classes == BLANK)
    # \s+(?!\S)|\s+ : the last blank before a word, number or symbol begins a pretoken, which may include them.
    begins |= blank & _IS_VISIBLE[following]
    # [^\r\n\p{L}\p{N}]?\p{L}+ : a single symbol that begins a pretoken includes the word after it.
    lone = np.flatnonzero(_lone_symbols(classes) & (following == LETTER))
    begins[lone + 1] = False
    apostrophes, letters = _contractions(points, lone, ignore_case=True)
    after = apostrophes + 1 + letters
    begins[after[classes[after] == LETTER]] = True
    # \p{N}{1,3} : a long number is split from its beginning.
    numbers = np.flatnonzero(classes == NUMBER)
    order = np.arange(len(numbers))
    first_digit = np.maximum.accumulate(np.where(np.diff(numbers, prepend=-2) > 1, order, 0))
    begins[numbers] = (order - first_digit) % digits == 0
    # \s*[\r\n]+ : white space is one pretoken up to its last line break; the rest of it begins the next.
    # [^\s\p{L}\p{N}]+[\r\n]* : but line breaks directly after symbols belong to those.
    first, last = _true_intervals(classes == BREAK)
    after_symbol = classes[first - 1] == SYMBOL
    before_blank = blank[last + 1]
    blanks_first, blanks_last = _true_intervals(blank)
    blank_first = (last + 1)[before_blank]
    blank_last = blanks_last[np.searchsorted(blanks_first, blank_first)]
    begins[blank_first] |= after_symbol[before_blank] | (classes[blank_last + 1] != BREAK)
    return begins


def split_gpt2(points: np.ndarray) -> np.ndarray:
    """Beginnings of pretokens by the gpt2 pattern; as `split_gpt4`."""
    classes = character_classes()[points]
    classes[classes == BREAK] = BLANK
    begins = _split_by_class_pair(classes, _GPT2)
    following = np.append(classes[1:], END)
    # \s+(?!\S)|\s+ : the last blank begins a pretoken, and a space includes the word, number or symbol after it.
    begins |= ((classes == SPACE) | (classes == BLANK)) & _IS_VISIBLE[following]
    lone = np.flatnonzero(_lone_symbols(classes) & (following == LETTER))
    apostrophes, letters = _contractions(points, lone, ignore_case=False)
    after = apostrophes + 1 + letters
    begins[apostrophes + 1] = False
    begins[after[classes[after] == LETTER]] = True
    return begins


def _split_by_class_pair(classes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Beginnings by table[class of the previous character, class of the character]."""
    begins = np.empty(len(classes), bool)
    begins[0] = True
    begins[1:] = table.ravel()[classes[:-1] * np.uint8(7) + classes[1:]]
    return begins


def _class_pair_table(inside: list[tuple[int, int]]) -> np.ndarray:
    """A pretoken begins where the class changes, except at the pairs in `inside`, and on both sides of the separator."""
    table = ~np.eye(7, dtype=bool)
    for pair in inside:
        table[pair] = False
    table[END, :] = table[:, END] = True
    return table


_WHITE = [(a, b) for a in (SPACE, BLANK, BREAK) for b in (SPACE, BLANK, BREAK)]
_GPT4 = _class_pair_table([*_WHITE, (SPACE, LETTER), (BLANK, LETTER), (SPACE, SYMBOL), (SYMBOL, BREAK)])
_GPT2 = _class_pair_table([*_WHITE, (SPACE, LETTER), (SPACE, NUMBER), (SPACE, SYMBOL)])
_IS_VISIBLE = np.isin(np.arange(7), (LETTER, NUMBER, SYMBOL))


def _lone_symbols(classes: np.ndarray) -> np.ndarray:
    """Symbols that follow neither a symbol nor a space, and precede no symbol."""
    symbol = classes == SYMBOL
    lone = symbol.copy()
    lone[1:] &= ~symbol[:-1] & (classes[:-1] != SPACE)
    lone[:-1] &= ~symbol[1:]
    return lone


def _contractions(points: np.ndarray, lone: np.ndarray, ignore_case: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions of apostrophes that begin 's 't 'm 'd 're 've 'll, and the number of letters after each."""
    apostrophes = lone[points[lone] == ord("'")]
    first, second = points[apostrophes + 1], points[np.minimum(apostrophes + 2, len(points) - 1)]
    if ignore_case:
        long_s = first == 0x17F  # the one other letter that folds to one of these
        first, second = np.where(long_s, ord("s"), first | 0x20), second | 0x20
    one = np.isin(first, [ord(letter) for letter in "stmd"])
    two = ((second == ord("e")) & np.isin(first, [ord("r"), ord("v")])) | ((first == ord("l")) & (second == ord("l")))
    letters = np.where(one, 1, np.where(two, 2, 0))
    return apostrophes[letters > 0], letters[letters > 0]


def _true_intervals(member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last positions of the sequences of True; the last element of `member` is False."""
    steps = np.flatnonzero(member[1:] != member[:-1])
    if member[0]:
        steps = np.concatenate(([-1], steps))
    return steps[::2] + 1, steps[1::2]


SPLITTERS = {"gpt2": split_gpt2, "gpt4": split_gpt4, "qwen2": partial(split_gpt4, digits=1)}
"""The function of each pattern of split_patterns.py."""


def unique_pretokens(
    texts: Sequence[str], splitter: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[bytes], np.ndarray]:
    """The distinct pretokens of documents as UTF-8, and the sequence of all pretokens as indices of these.

    The separator follows each document. `splitter` is one of SPLITTERS.
    """
    text = SEPARATOR.join([*texts, ""])
    begins = np.flatnonzero(splitter(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)))
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    if len(data) > len(text):  # from characters to bytes
        begins = np.flatnonzero((data & 0xC0) != 0x80)[begins]
    import pyarrow

    buffers = [None, pyarrow.py_buffer(np.append(begins, len(data))), pyarrow.py_buffer(data)]
    pretokens = pyarrow.Array.from_buffers(pyarrow.large_binary(), len(begins), buffers).dictionary_encode()
    return pretokens.dictionary.to_pylist(), pretokens.indices.to_numpy()
