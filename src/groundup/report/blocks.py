"""What a report is made of, as plain data: paragraphs, tables, figures, quotations.

The words are chosen once, in `sections/`; the PDF (report.typ) and the page (page.html) only set them. A text is
a list of spans, and a span is a string or {"style": "strong" | "emph" | "code", "text": ...}: data stays data,
nothing in it is ever read as markup.
"""

from collections.abc import Sequence
from typing import Any

Span = str | dict[str, str]
Cell = str | list[Span]
Block = dict[str, Any]


def strong(text: str) -> Span:
    return {"style": "strong", "text": text}


def emph(text: str) -> Span:
    return {"style": "emph", "text": text}


def code(text: str) -> Span:
    return {"style": "code", "text": text}


def paragraph(*spans: Span) -> Block:
    return {"kind": "paragraph", "spans": list(spans)}


def lead(*spans: Span) -> Block:
    """A paragraph that stays with what follows it."""
    return {"kind": "lead", "spans": list(spans)}


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str,
    *,
    align: str = "",
    total: bool = False,
) -> Block:
    """A table with a caption.

    Args:
        align: a letter a column, l or r; default: the first column to the left, numbers to the right.
        total: the last row is the sum of the others, and is set apart.
    """
    letters = align or "l" + "r" * (len(columns) - 1)
    if len(letters) != len(columns) or any(len(row) != len(columns) for row in rows):
        raise ValueError(f"table {caption!r}: rows and alignment need {len(columns)} columns")
    return {
        "kind": "table",
        "columns": list(columns),
        "rows": [[spans(cell) for cell in row] for row in rows],
        "align": list(letters),
        "caption": caption,
        "total": total,
    }


def pairs(rows: Sequence[tuple[str, Cell]]) -> Block:
    """Names and values, side by side, without a caption: a list of facts."""
    return {"kind": "pairs", "rows": [[name, spans(value)] for name, value in rows]}


def figure(name: str, svg: str, caption: str, alt: str) -> Block:
    """A drawing, under a name that no other in the report has. `alt` says in words what is to be seen."""
    return {"kind": "figure", "name": name, "svg": svg, "caption": caption, "alt": alt}


def sample(prompt: str, text: str) -> Block:
    """What a model made of a beginning."""
    return {"kind": "sample", "prompt": prompt, "text": text}


def chat(turns: Sequence[tuple[str, str]]) -> Block:
    """A conversation: (role, what was said)."""
    return {"kind": "chat", "turns": [{"role": role, "text": text} for role, text in turns]}


def tokens(pieces: Sequence[str], caption: str) -> Block:
    """A text cut into tokens, to be shown in alternating colours."""
    return {"kind": "tokens", "pieces": list(pieces), "caption": caption}


def chips(words: Sequence[str], lead: str) -> Block:
    """Single tokens or names, each in a little frame, after a few words that say what they are."""
    return {"kind": "chips", "words": list(words), "lead": lead}


def quotation(label: str, place: str, text: str) -> Block:
    """Foreign text that was found somewhere: a few words on it, where it was, and its beginning."""
    return {"kind": "quotation", "label": label, "place": place, "text": text}


def commands(lines: Sequence[tuple[str, str]]) -> Block:
    """What one may type, and what it does."""
    return {"kind": "commands", "lines": [{"command": command, "does": does} for command, does in lines]}


def listing(text: str) -> Block:
    """Lines of code, as they stand."""
    return {"kind": "listing", "text": text}


def section(title: str, blocks: Sequence[Block | None]) -> dict[str, Any]:
    """A numbered section; blocks that are None are left out."""
    return {"title": title, "blocks": [block for block in blocks if block is not None]}


def spans(cell: Cell) -> list[Span]:
    return cell if isinstance(cell, list) else [cell]
