"""Paragraphs of a PDF from its lines and their places; without running heads, page numbers and hyphenation."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MIN_REPEATS, REPEATED_SHARE = 3, 0.3
"""A first or last line of so many pages, alike but for its page number, is a running head or foot; one without a
number if it is on such a share of the pages.
"""
EDGE_LINES = 2
LINE_GAP = 1.45
"""Distance of the lines of two paragraphs, over the usual distance of the page."""
SIZE_CHANGE = 1.15
"""Of the font: a heading."""
INDENT, SHORT_LINE = 0.8, 4.0
"""In line heights: a first line's indent, and what a paragraph's last line is shorter."""

ITEM = re.compile(r"[•‣◦▪●○–—*·-]\s|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)]\s|\[\d{1,3}\]\s|\d+(?:\.\d+)+\.?\s")
SENTENCE_END = re.compile(r"[.!?:;。!?…][\"'”’»)\]]*$")
CONTENTS_ENTRY = re.compile(r"(?:\.\s?){4,}\s*\w{1,6}$")
LEADER = re.compile(r" ?(?:\. ?){4,}|…{2,}")
"""Dots from an entry of a table of contents to its page number: filters would take them for repetition."""
LINE_HYPHEN = re.compile(r"(\w+)\ufffe(\w+)")
"""PDFium's mark for a hyphen at the end of a line."""

COMBINING = dict(zip("´`¨ˆ˜ˇ˚˝˘¸", "\u0301\u0300\u0308\u0302\u0303\u030c\u030a\u030b\u0306\u0327", strict=True))
ACCENT = re.compile(
    "(?P<accent>[´¨ˆ˜ˇ˚˝˘]|(?<=[A-Za-z])`(?=[AEIOUaeiou])|¸(?=[Cc]))(?P<above>[A-Za-zı])|(?P<below>[CcSsTt])¸"
)


@dataclass(slots=True)
class PageLine:
    """A line of text; its place in points, from the lower left corner. A line without a height has no place."""

    text: str
    left: float = 0.0
    right: float = 0.0
    baseline: float = 0.0
    height: float = 0.0
    font_size: float = 0.0
    is_fixed: bool = False
    """In a typewriter's font, as code is."""


def compose_accents(text: str, is_code: bool = False) -> str:
    """Letters with accents for those that older fonts of TeX draw in two parts.

    >>> compose_accents("comenc¸a la indicaci´o, com g¨u`e i l´ınia")
    'comença la indicació, com güè i línia'
    """
    if text.isascii() and "`" not in text:
        return text
    return ACCENT.sub(lambda match: match.group() if is_code and "`" in match.group() else _composed(match), text)


def _composed(match: re.Match[str]) -> str:
    letter = (match.group("above") or match.group("below")).replace("ı", "i")
    found = unicodedata.normalize("NFC", letter + COMBINING[match.group("accent") or "¸"])
    return found if len(found) == 1 else match.group()


def layout_text(pages: list[list[PageLine]]) -> str:
    """The text of all pages: paragraphs parted by blank lines."""
    paragraphs: list[str] = []
    for lines in _without_running_heads(pages):
        found = list(_page_paragraphs(lines))
        if paragraphs and found and _continues(paragraphs[-1], found[0]):
            paragraphs[-1] = _join(paragraphs[-1], found.pop(0))
        paragraphs += found
    return _join_hyphenated("\n\n".join(LEADER.sub("\t", paragraph) for paragraph in paragraphs))


def _without_running_heads(pages: list[list[PageLine]]) -> list[list[PageLine]]:
    edges = [{_edge_key(line) for line in (*lines[:EDGE_LINES], *lines[-EDGE_LINES:])} for lines in pages]
    counts = Counter(key for keys in edges for key in keys)
    many = max(MIN_REPEATS, REPEATED_SHARE * len(pages))
    repeated = {key for key, count in counts.items() if count >= (MIN_REPEATS if "#" in key else many)}
    kept: list[list[PageLine]] = []
    for lines in pages:
        start, end = 0, len(lines)
        dropped = repeated if any(kept) else {"#"}  # the first page may have the title as its first line
        while start < min(EDGE_LINES, end) and _edge_key(lines[start]) in dropped:
            start += 1
        while end > max(start, len(lines) - EDGE_LINES) and _edge_key(lines[end - 1]) in dropped:
            end -= 1
        kept.append(lines[start:end])
    return kept


def _edge_key(line: PageLine) -> str:
    """A line without its numbers, also Roman ones."""
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", line.text)


def _page_paragraphs(lines: list[PageLine]) -> Iterator[str]:
    """Paragraphs of a page; blocks of code keep their lines and indents."""
    steps = sorted(
        above.baseline - below.baseline
        for above, below in pairwise(lines)
        if 0 < above.baseline - below.baseline < 3 * above.height
    )
    usual = steps[len(steps) // 2] if steps else 0.0
    sizes = sorted(line.font_size for line in lines)
    size = sizes[len(sizes) // 2] if sizes else 0.0
    block: list[PageLine] = []
    for line in lines:
        if block and _starts_paragraph(block, line, usual, size):
            yield _block_text(block)
            block = []
        block.append(line)
    if block:
        yield _block_text(block)


def _block_text(block: list[PageLine]) -> str:
    if len(block) > 1 and all(line.is_fixed for line in block):
        left = min(line.left for line in block)
        widest = max(block, key=lambda line: len(line.text))
        width = max((widest.right - widest.left) / len(widest.text), 1.0)
        return "\n".join(" " * min(round((line.left - left) / width), 40) + line.text for line in block)
    text = block[0].text
    for line in block[1:]:
        text = _join(text, line.text)
    return text


def _starts_paragraph(block: list[PageLine], below: PageLine, usual: float, size: float) -> bool:
    """`usual`: distance of the lines of the page; `size`: of its font."""
    above, start = block[-1], block[0]
    if above.text.endswith("\ufffe"):
        return False
    if above.height <= 0 or below.height <= 0:
        if ITEM.match(below.text) or CONTENTS_ENTRY.search(above.text):
            return True
        return len(above.text) < 50 or (SENTENCE_END.search(above.text) is not None and len(above.text) < 70)
    step = above.baseline - below.baseline
    if abs(step) < 0.3 * above.height:  # beside it: a cell of a table, another font
        return False
    if step < -above.height:  # the next column
        return not _continues(above.text, below.text)
    if above.font_size == below.font_size > SIZE_CHANGE * size and step < LINE_GAP * below.height:
        return ITEM.match(below.text) is not None  # lines of a heading
    if step > LINE_GAP * usual > 0:
        return True
    if above.is_fixed and below.is_fixed and start.is_fixed:
        return False
    if ITEM.match(below.text) or CONTENTS_ENTRY.search(above.text):
        return True
    if _changes(above.height, below.height) and _changes(above.font_size, below.font_size):
        return True
    if below.left > above.left + INDENT * below.height and not ITEM.match(start.text):
        return True
    is_short = above.right < below.right - SHORT_LINE * below.height
    if below.is_fixed and SENTENCE_END.search(above.text):
        return True
    if above.is_fixed and start.is_fixed and not below.is_fixed:
        return is_short or abs(above.left - below.left) > INDENT * below.height
    return is_short and (SENTENCE_END.search(above.text) is not None or below.text[:1].isupper() or below.is_fixed)


def _changes(above: float, below: float) -> bool:
    return max(above, below) > SIZE_CHANGE * min(above, below)


def _continues(above: str, below: str) -> bool:
    """Whether a sentence goes on in the next column or on the next page."""
    return SENTENCE_END.search(above) is None and (below[:1].islower() or above.endswith(("\ufffe", ",")))


def _join(above: str, below: str) -> str:
    if above.endswith("\ufffe"):
        return above + below
    if above.endswith("\u00ad"):
        return above[:-1] + below
    return above + (" " if above[-1:].isascii() or below[:1].isascii() else _line_space(above, below)) + below


def _line_space(above: str, below: str) -> str:
    """Nothing between lines of Chinese and Japanese."""
    return "" if "\u2e80" <= above[-1] <= "\u9fff" or "\u2e80" <= below[0] <= "\u9fff" else " "


def _join_hyphenated(text: str) -> str:
    """Words that a line end parts; with their hyphen if the text has the word with it elsewhere, and not without."""
    if "\ufffe" not in text:
        return text
    words = Counter(re.findall(r"\w+(?:-\w+)*", text.lower()))

    def join(match: re.Match[str]) -> str:
        first, second = match.groups()
        with_hyphen = f"{first}-{second}".lower() in words and f"{first}{second}".lower() not in words
        keeps = with_hyphen or not second[0].islower() or first[-1].isdigit()
        return f"{first}-{second}" if keeps else first + second

    return LINE_HYPHEN.sub(join, text).replace("\ufffe", "-")
