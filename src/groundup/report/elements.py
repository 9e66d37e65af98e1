"""Elements of a report as plain data: paragraphs, tables, figures, quotations.

`sections/` builds them; report.typ (PDF) and report.html lay them out. A text is a list of spans, each a string or
{"style": "strong" | "emph" | "code", "text": ...}, and is never interpreted as markup.
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
    """A paragraph kept on one page with the next element."""
    return {"kind": "lead_in", "spans": list(spans)}


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str, *, align: str = "", total: bool = False
) -> Element:
    """A table with a caption.

    Args:
        align: one letter per column, l or r; default: the first column l, the others r.
        total: the last row is the total.
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
    """A two-column list of names and values, without a caption."""
    return {"kind": "key_values", "rows": [[name, spans(value)] for name, value in rows]}


def figure(name: str, svg: str, caption: str, alt: str) -> Element:
    """A figure with a name that is unique in the report; `alt` is its text alternative."""
    return {"kind": "figure", "name": name, "svg": svg, "caption": caption, "alt": alt}


def sample(prompt: str, text: str) -> Element:
    """A prompt and its continuation."""
    return {"kind": "sample", "prompt": prompt, "text": text}


def chat(turns: Sequence[tuple[str, str]]) -> Element:
    """A conversation as (role, text) pairs."""
    return {"kind": "chat", "turns": [{"role": role, "text": text} for role, text in turns]}


def token_strip(texts: Sequence[str], caption: str) -> Element:
    """A text as tokens in alternating colors."""
    return {"kind": "token_strip", "texts": list(texts), "caption": caption}


def chips(words: Sequence[str], label: str) -> Element:
    """A label followed by framed tokens or names."""
    return {"kind": "chips", "words": list(words), "label": label}


def quotation(label: str, location: str, text: str) -> Element:
    """An excerpt of a document with a label and its location."""
    return {"kind": "quotation", "label": label, "location": location, "text": text}


def commands(lines: Sequence[tuple[str, str]]) -> Element:
    """Shell commands with descriptions."""
    return {
        "kind": "commands",
        "lines": [{"command": command, "description": description} for command, description in lines],
    }


def listing(text: str) -> Element:
    """A code listing."""
    return {"kind": "listing", "text": text}


def section(title: str, elements: Sequence[Element | None]) -> dict[str, Any]:
    """A numbered section; elements that are None are left out."""
    return {"title": title, "elements": [element for element in elements if element is not None]}


def spans(cell: Cell) -> list[StyledText]:
    return cell if isinstance(cell, list) else [cell]
