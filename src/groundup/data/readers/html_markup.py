"""Markup of pages that extractors lose: lists, joiners, superscripts; written so that they keep it."""

import re
import unicodedata
from collections.abc import Iterator

from groundup.data.readers.measurements import SUBSCRIPTS, SUPERSCRIPTS

LIST = re.compile(r"<(/?)(ul|ol|li)\b([^<>]*)>", re.IGNORECASE)
VERBATIM = re.compile(r"<(/?)(?:pre|textarea|script|style)\b", re.IGNORECASE)
START = re.compile(r"""\bstart\s*=\s*["']?(\d{1,6})""", re.IGNORECASE)
LINK = re.compile(r"<a\b[^<>]*>([^<]*+(?:<(?!/a\b)[^<]*+)*+)", re.IGNORECASE)
TAG = re.compile(r"<[^<>]*>")
NAVIGATION = re.compile(
    r"\b(?:nav|menu|breadcrumb|pag(?:ination|er)|share|social|toolbar|tabs?|footer|sidebar|toc)", re.IGNORECASE
)
LINK_SHARE = 0.6
"""A list with a larger share of its characters in links is navigation (boilerpipe: Kohlschütter et al. 2010)."""

JOINER_NAMES = re.compile(r"&(?:zwn?j|#x200[cd]|#820[45]);", re.IGNORECASE)
JOINERS = {
    "&zwnj;": "\u200c",
    "&#x200c;": "\u200c",
    "&#8204;": "\u200c",
    "&zwj;": "\u200d",
    "&#x200d;": "\u200d",
    "&#8205;": "\u200d",
}
RARE_LETTERS = range(0x10600, 0x10737)
"""Linear A: printable letters that stand for others while trafilatura works."""

RAISED = re.compile(r"<su([pb])\b[^<>]*>\s*([+\-−]?\d{1,4})\s*</su\1>", re.IGNORECASE)


def keep_lists(source: str) -> str:
    """Lists of text with written bullets and numbers; unordered ones as <ol>, since resiliparse takes every <ul> for
    navigation and drops it.
    """
    out, position = [], 0
    for opening, start, end in _outer_lists(source):
        region = source[start:end]
        text = "".join(TAG.sub("", region).split())
        links = "".join(TAG.sub("", " ".join(LINK.findall(region))).split())
        if NAVIGATION.search(opening) or len(links) > LINK_SHARE * len(text):
            continue
        out += [source[position:start], _numbered(region)]
        position = end
    return "".join([*out, source[position:]])


def _outer_lists(source: str) -> Iterator[tuple[str, int, int]]:
    """(attributes, start, end) of each list that is not within a list."""
    depth = start = 0
    opening = ""
    for tag in LIST.finditer(source):
        if tag.group(2).lower() == "li":
            continue
        if not tag.group(1):
            if depth == 0:
                start, opening = tag.start(), tag.group(3)
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                yield opening, start, tag.end()


def _numbered(region: str) -> str:
    counts: list[int | None] = []

    def mark(tag: re.Match[str]) -> str:
        closing, name = tag.group(1), tag.group(2).lower()
        if name == "li":
            if closing or not counts:
                return tag.group()
            number = counts[-1]
            counts[-1] = None if number is None else number + 1
            return f"{tag.group()}{'-' if number is None else f'{number}.'} "
        if closing:
            counts[-1:] = []
        else:
            first = START.search(tag.group(3))
            counts.append(None if name == "ul" else int(first.group(1)) if first else 1)
        return f"<{closing}ol>"

    return LIST.sub(mark, region)


def join_lines(source: str) -> str:
    """Line ends of the source as spaces, as browsers show them, outside <pre> and <textarea>; trafilatura keeps them all."""
    out, position, depth = [], 0, 0
    for tag in VERBATIM.finditer(source):
        part = source[position : tag.start()]
        out.append(part if depth else part.replace("\n", " "))
        position, depth = tag.start(), max(depth - 1, 0) if tag.group(1) else depth + 1
    rest = source[position:]
    return "".join([*out, rest if depth else rest.replace("\n", " ")])


def raise_digits(source: str) -> str:
    """Numbers in <sup> and <sub> as such characters: "10⁵" and "H₂O", not "105" and "H2O"."""
    if "<su" not in source and "<SU" not in source:
        return source
    return RAISED.sub(
        lambda match: match.group(2).translate(SUPERSCRIPTS if match.group(1) in "pP" else SUBSCRIPTS), source
    )


def shield(source: str) -> tuple[str, dict[str, str]]:
    """Characters that Python does not call printable (joiners, marks of Arabic, newer emoji) as rare letters that the page
    does not use, and the way back. trafilatura deletes them: Persian words and families of emoji would fall apart.
    """
    source = JOINER_NAMES.sub(lambda match: JOINERS[match.group().lower()], source)
    if source.isascii():
        return source, {}
    present = set(source)
    letters = (chr(code) for code in RARE_LETTERS if chr(code) not in present)
    hidden = sorted(mark for mark in present if not mark.isprintable() and unicodedata.category(mark) in ("Cf", "Cn"))
    back = {letter: mark for mark, letter in zip(hidden, letters, strict=False) if mark not in "\u200b\ufeff\u00ad"}
    return source.translate({ord(mark): letter for letter, mark in back.items()}) if back else source, back
