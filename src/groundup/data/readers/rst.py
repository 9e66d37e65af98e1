"""reStructuredText reader: to plain text, with the directives and roles of Sphinx.

Grammar: https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from groundup.data.readers.rst_inline import InlineMarkup
from groundup.data.readers.text import markup_reader

ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
UNDERLINE = re.compile(r"([!-/:-@\[-`{-~])\1*$")
BULLET = re.compile(r"([-*+•]|\(?(?:#|\d{1,4}|[a-zA-Z]|[ivxlcIVXLC]{1,6})[.)])(?:\s+|$)")
AUTO_NUMBER = re.compile(r"\(?#[.)]\s")
CAPTION = re.compile(r"\s*:caption:\s*(\S.*)")
DIRECTIVE = re.compile(r"\.\. +(?:\|[^|\n]+\| +)?([a-zA-Z][\w:.+-]*?)::(?:\s+(.*)|$)")
FOOTNOTE = re.compile(r"\.\. +(\[[#*\w.-]+\])(?:\s+(.*)|$)")
FIELD = re.compile(r":(?![: ])([^:`\n]+(?::[^:` \n][^:`\n]*)*):(?:\s+(.*)|$)")
OPTION = re.compile(r"\s*:[\w -]+:")
SIMPLE_TABLE = re.compile(r"=+(?:\s+=+)+\s*$")
GRID_TABLE = re.compile(r"\+(?:[-=]+\+)+\s*$")
DOCTEST = (">>> ", "...\\> ")
MAX_DEPTH, MAX_OPTIONS = 30, 12

CODE = frozenset(["code-block", "sourcecode", "code", "console", "parsed-literal", "doctest", "testcode", "testoutput", "prompt",
                  "ipython", "productionlist", "highlights", "csv-table"])  # fmt: skip
UNSEEN = frozenset([
    "toctree", "image", "index", "contents", "module", "currentmodule", "py:module", "py:currentmodule", "highlight", "include",
    "literalinclude", "raw", "meta", "role", "default-role", "sectnum", "graphviz", "digraph", "graph", "plot", "rst-class",
    "automodule", "autoclass", "autofunction", "automethod", "autosummary", "program", "tabularcolumns", "title", "replace",
    "unicode", "date", "figure-md", "todo", "todolist", "testsetup", "testcleanup", "highlightlang", "moduleauthor", "ifconfig",
    "codeauthor", "sectionauthor", "class-index", "inheritance-diagram", "mermaid", "youtube", "target-notes",
    "header", "footer",
])  # fmt: skip
PLAIN = frozenset([
    "note", "warning", "tip", "important", "caution", "hint", "danger", "error", "attention", "seealso", "epigraph", "compound",
    "pull-quote", "versionadded", "versionchanged", "deprecated", "versionremoved",
])  # fmt: skip
"""Directives whose first line is text."""
HIDDEN_ARGUMENT = frozenset(["container", "only", "hlist", "tab-set", "tabs", "grid", "list-table", "table", "glossary", "figure",
                             "class", "code-tab", "sphinx-directive", "details"])  # fmt: skip
ADMONITIONS = {name: name.title() for name in ("note", "warning", "tip", "important", "caution", "hint", "danger", "error",
                                               "attention")} | {"seealso": "See also"}  # fmt: skip
VERSIONS = {
    "versionadded": "New in version", "versionchanged": "Changed in version", "deprecated": "Deprecated since version",
    "versionremoved": "Removed in version",
}  # fmt: skip
PREFIXES = {"class": "class ", "exception": "exception ", "classmethod": "classmethod ", "staticmethod": "static "}
OBJECTS = frozenset([
    *PREFIXES, "function", "method", "attribute", "data", "property", "decorator", "decoratormethod", "describe", "object",
    "macro",
    "type", "var", "member", "option", "cmdoption", "envvar", "rubric", "topic", "admonition", "sidebar", "struct", "enum",
    "enumerator", "alias", "opcode", "confval", "directive", "role",
    "django-admin", "django-admin-option",
])  # fmt: skip
"""Directives whose argument is shown even if nothing is under it."""


@dataclass(slots=True)
class TextBlock:
    """A paragraph, heading, item or verbatim part. Items of a list have no blank line between them."""

    text: str
    is_item: bool = False


def rst_to_text(source: str) -> str:
    """Headings, paragraphs, lists, signatures, code and tables as a reader sees them; without link targets and comments.

    >>> rst_to_text(".. method:: Field.clean(value)\\n\\n    Checks the :class:`~a.Model`'s *value*.")
    "Field.clean(value)\\n\\nChecks the Model's value."
    """
    source = source.expandtabs(8).replace("\r\n", "\n")
    blocks = list(_blocks([line.rstrip() for line in source.split("\n")], InlineMarkup.of(source), 0))
    parts: list[str] = []
    for index, block in enumerate(blocks):
        if index:
            parts.append("\n" if block.is_item and blocks[index - 1].is_item else "\n\n")
        parts.append(block.text)
    return "".join(parts)


read = markup_reader(rst_to_text)


def _blocks(lines: list[str], inline: InlineMarkup, depth: int) -> Iterator[TextBlock]:
    place = number = 0
    while place < len(lines):
        line = lines[place]
        stripped = line.lstrip()
        if not stripped:
            place += 1
            continue
        number = number + 1 if AUTO_NUMBER.match(stripped) else 0
        indent = len(line) - len(stripped)
        following = lines[place + 1] if place + 1 < len(lines) else ""
        if stripped.startswith("..") and (len(stripped) == 2 or stripped[2] == " "):
            end = _body_end(lines, place + 1, indent)
            yield from _explicit(stripped, lines[place + 1 : end], inline, depth)
        elif stripped.startswith("__ "):
            end = place + 1
        elif GRID_TABLE.match(stripped) or SIMPLE_TABLE.match(stripped):
            end = _table_end(lines, place)
            yield from _table([row[indent:] for row in lines[place:end]], inline)
        elif stripped.startswith(DOCTEST):
            end = _blank(lines, place)
            yield TextBlock("\n".join(row[indent:] for row in lines[place:end]))
        elif ADORNMENT.match(stripped):  # a line over a title, or a transition; a title's own line is skipped below
            end = place + 1
        elif following.strip() and UNDERLINE.match(following.lstrip()) and len(following) >= min(len(line), 4):
            end = place + 2
            yield TextBlock(inline.to_text(stripped))
        elif stripped.startswith("| "):
            end = _blank(lines, place)
            rows = [row.strip().removeprefix("|").strip() for row in lines[place:end]]
            yield TextBlock(inline.to_text("\n".join(rows)))
        elif field := FIELD.match(stripped):
            end = _body_end(lines, place + 1, indent)
            content = " ".join(filter(None, [field.group(2), *(row.strip() for row in lines[place + 1 : end])]))
            if content:
                yield TextBlock(inline.to_text(f"{field.group(1)}: {content}"), is_item=True)
        elif (bullet := BULLET.match(stripped)) and depth < MAX_DEPTH:
            end = _body_end(lines, place + 1, indent)
            marker = f"{number}. " if number else "- " if bullet.group(1) in "-*+•" else f"{bullet.group(1)} "
            yield from _item(marker, [stripped[bullet.end() :], *_dedented(lines[place + 1 : end])], inline, depth)
        else:
            end = place + 1
            while end < len(lines) and lines[end] and len(lines[end]) - len(lines[end].lstrip()) == indent:
                end += 1
            text = " ".join(row.strip() for row in lines[place:end])
            is_literal = text.endswith("::")
            if is_literal:
                text = text[:-2].rstrip() if text[:-2].endswith(" ") or len(text) == 2 else text[:-1]
            if text:
                yield TextBlock(inline.to_text(text))
            body_end = _body_end(lines, end, indent)
            body = _dedented(lines[end:body_end])
            end = body_end
            if is_literal and body:
                yield TextBlock("\n".join(body).strip("\n"))
            elif body and depth < MAX_DEPTH:  # a definition, or a quotation
                yield from _blocks(body, inline, depth + 1)
            elif body:
                yield TextBlock(" ".join(filter(None, body)))
        place = end


def _explicit(first: str, body: list[str], inline: InlineMarkup, depth: int) -> Iterator[TextBlock]:
    """A directive, footnote, target or comment."""
    if note := FOOTNOTE.match(first):
        text = " ".join(filter(None, [note.group(2), *(line.strip() for line in body)]))
        yield TextBlock(inline.to_text(f"{note.group(1)} {text}"), is_item=True)
        return
    directive = DIRECTIVE.match(first)
    if not directive or depth >= MAX_DEPTH:
        return
    name, argument = directive.group(1).lower(), (directive.group(2) or "").strip()
    short = name.rsplit(":", 1)[-1]
    if name in UNSEEN or short in UNSEEN:
        return
    caption = next(filter(None, map(CAPTION.match, body[:MAX_OPTIONS])), None) if short in CODE else None
    signatures, body = _split_options(argument, body)
    body = _dedented(body)
    if short in CODE:
        if text := "\n".join(body).strip("\n"):
            yield from [TextBlock(inline.to_text(caption.group(1)))] if caption else []
            yield TextBlock(text)
        return
    if short == "math":
        formula = " ".join(filter(None, [argument, *(line.strip() for line in body)]))
        yield TextBlock(f"$${formula}$$")
        return
    if short in PLAIN:
        if short in VERSIONS:
            version, _, rest = " ".join(signatures).partition(" ")
            signatures = [f"{VERSIONS[short]} {version}" + (f": {rest}" if rest else ".")]
        elif title := ADMONITIONS.get(short):
            yield TextBlock(title)
        body = [*signatures, *([""] if short in VERSIONS else []), *body]
    elif signatures and (short in OBJECTS or any(body)) and not (short in HIDDEN_ARGUMENT and name not in OBJECTS):
        show = inline.to_text if short in ("rubric", "topic", "admonition", "sidebar") else inline.unescaped
        yield TextBlock("\n".join(PREFIXES.get(short, "") + show(line) for line in signatures))
    yield from _blocks(body, inline, depth + 1)


def _split_options(argument: str, body: list[str]) -> tuple[list[str], list[str]]:
    """Lines of the argument, and the content below the options."""
    place = 0
    arguments = [argument] if argument else []
    while place < len(body) and body[place] and not OPTION.match(body[place]):
        if not argument:
            return [], body  # content right below
        arguments.append(body[place].strip())
        place += 1
    while place < len(body) and body[place]:
        place += 1
    return arguments, body[place:]


def _item(marker: str, body: list[str], inline: InlineMarkup, depth: int) -> Iterator[TextBlock]:
    joined = 1
    while joined < len(body) and body[joined] and not BULLET.match(body[joined]) and not body[joined].startswith(".. "):
        joined += 1
    first = " ".join(line.strip() for line in body[:joined])
    for number, block in enumerate(_blocks([first, *body[joined:]], inline, depth + 1)):
        indent = marker if number == 0 else "  "
        yield TextBlock(indent + block.text.replace("\n", "\n  "), is_item=number == 0 or block.is_item)


def _body_end(lines: list[str], place: int, indent: int) -> int:
    """End of the lines that are blank or deeper than `indent`, without blank lines at the end."""
    end = place
    for index in range(place, len(lines)):
        if lines[index]:
            if len(lines[index]) - len(lines[index].lstrip()) <= indent:
                break
            end = index + 1
    return end


def _blank(lines: list[str], place: int) -> int:
    return next((index for index in range(place, len(lines)) if not lines[index]), len(lines))


def _dedented(lines: list[str]) -> list[str]:
    least = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    return [line[least:] for line in lines]


def _table_end(lines: list[str], place: int) -> int:
    """End of a table: of a simple one, the third border, or the second before a blank line."""
    if lines[place].lstrip().startswith("+"):
        return _blank(lines, place)
    borders = 0
    for index in range(place, len(lines)):
        if SIMPLE_TABLE.match(lines[index].strip()):
            borders += 1
            if borders > 1 and (index + 1 == len(lines) or not lines[index + 1]):
                return index + 1
    return _blank(lines, place)


def _table(lines: list[str], inline: InlineMarkup) -> Iterator[TextBlock]:
    """One block: a line for each row, cells apart by a bar."""
    is_grid = lines[0].startswith("+")
    borders = re.finditer(r"(?<=\S)\+(?=.)" if is_grid else r"(?<= )=", lines[0])
    starts = [0, *(border.start() for border in borders)]
    rows: list[list[str]] = [[]]
    for line in lines:
        if re.fullmatch(r"\+.*|[=\- ]*", line) if is_grid else re.fullmatch(r"[=\- ]*", line):
            rows.append([])
            continue
        cells = [line[start + is_grid : end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        cells = [cell.removesuffix("|").strip() for cell in cells] if is_grid else cells
        if rows[-1] and (is_grid or not cells[0]):
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    text = "\n".join(" | ".join(filter(None, (inline.to_text(cell) for cell in row))) for row in rows if any(row))
    if text:
        yield TextBlock(text)
