"""What a report is made of, as plain data: paragraphs, tables, figures, quotations.

The words are chosen once, in `sections/`; the PDF (report.typ) and the page (page.html) only set them. A text is
a list of spans, and a span is a string or {"style": "strong" | "emph" | "code", "text": ...}: data stays data,
nothing in it is ever read as markup.
"""

from collections.abc import Sequence
from typing import Any

StyledText = str | dict[str, str]
Cell = str | list[StyledText]
Element = dict[str, Any]


def strong(text: str) -> StyledText:
    return {"style": "strong", "text": text}


def emph(text: str) -> StyledText:
    return {"style": "emph", "text": text}


def code(text: str) -> StyledText:
    return {"style": "code", "text": text}


def paragraph(*spans: StyledText) -> Element:
    return {"kind": "paragraph", "spans": list(spans)}


def lead_in(*spans: StyledText) -> Element:
    """A paragraph that stays with what follows it."""
    return {"kind": "lead_in", "spans": list(spans)}


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str,
    *,
    align: str = "",
    total: bool = False,
) -> Element:
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


def key_values(rows: Sequence[tuple[str, Cell]]) -> Element:
    """Names and values, side by side, without a caption: a list of facts."""
    return {"kind": "key_values", "rows": [[name, spans(value)] for name, value in rows]}


def figure(name: str, svg: str, caption: str, alt: str) -> Element:
    """A drawing, under a name that no other in the report has. `alt` says in words what is to be seen."""
    return {"kind": "figure", "name": name, "svg": svg, "caption": caption, "alt": alt}


def sample(prompt: str, text: str) -> Element:
    """What a model made of a beginning."""
    return {"kind": "sample", "prompt": prompt, "text": text}


def chat(turns: Sequence[tuple[str, str]]) -> Element:
    """A conversation: (role, what was said)."""
    return {"kind": "chat", "turns": [{"role": role, "text": text} for role, text in turns]}


def token_strip(texts: Sequence[str], caption: str) -> Element:
    """A text cut into tokens, to be shown in alternating colours."""
    return {"kind": "token_strip", "texts": list(texts), "caption": caption}


def chips(words: Sequence[str], label: str) -> Element:
    """Single tokens or names, each in a little frame, after a few words that say what they are."""
    return {"kind": "chips", "words": list(words), "label": label}


def quotation(label: str, location: str, text: str) -> Element:
    """Foreign text that was found somewhere: a few words on it, where it was, and its beginning."""
    return {"kind": "quotation", "label": label, "location": location, "text": text}


def commands(lines: Sequence[tuple[str, str]]) -> Element:
    """What one may type, and what it does."""
    return {"kind": "commands", "lines": [{"command": command, "does": does} for command, does in lines]}


def listing(text: str) -> Element:
    """Lines of code, as they stand."""
    return {"kind": "listing", "text": text}


def section(title: str, elements: Sequence[Element | None]) -> dict[str, Any]:
    """A numbered section; blocks that are None are left out."""
    return {"title": title, "elements": [block for block in elements if block is not None]}


def spans(cell: Cell) -> list[StyledText]:
    return cell if isinstance(cell, list) else [cell]
