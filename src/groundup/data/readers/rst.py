"""reStructuredText reader: to plain text.

Grammar: https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html
"""

import re

from groundup.data.readers.text import markup_reader

UNDERLINE = re.compile(r"^([=\-~^\"'`#*+.:_])\1{2,}\s*$")
DIRECTIVE = re.compile(r"^\.\.(\s|$)")
PROSE_DIRECTIVE = re.compile(
    r"^\.\. (note|warning|admonition|tip|important|caution|hint|seealso|versionadded|versionchanged|deprecated)::\s*(.*)$"
)
ROLE = re.compile(r"(?<![\w:]):(?:[a-zA-Z][\w+.-]*+:)++`([^`]*+)`")
LITERAL = re.compile(r"``([^`]+)``")
REFERENCE = re.compile(r"`([^`]+)`__?")
INTERPRETED = re.compile(r"`([^`]+)`")
EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}(?![\w*])")
FIELD = re.compile(r"^:[\w -]+:")


def rst_to_text(source: str) -> str:
    """Paragraphs, list items and headings; without code, tables, directives and link targets."""
    chunks = re.split(r"\n[ \t]*\n", source.expandtabs(4).replace("\r\n", "\n"))
    kept: list[str] = []
    skip_indent: int | None = None  # inside a directive or literal block: skip deeper lines
    for chunk in chunks:
        lines = [line.rstrip() for line in chunk.split("\n") if line.strip()]
        if not lines:
            continue
        indent = len(lines[0]) - len(lines[0].lstrip())
        if skip_indent is not None:
            if indent > skip_indent:
                continue
            skip_indent = None
        first = lines[0].strip()
        if directive := PROSE_DIRECTIVE.match(first):
            title = directive.group(2) if directive.group(1) != "admonition" else ""
            rest = [line.strip() for line in lines[1:] if not FIELD.match(line.strip())]
            if directive.group(1) in ("versionadded", "versionchanged", "deprecated"):
                title = ""
            if text := _inline(" ".join([title, *rest]).strip()):
                kept.append(text)
            continue
        if DIRECTIVE.match(first) or FIELD.match(first):
            skip_indent = indent if DIRECTIVE.match(first) else None
            continue
        if first.startswith((">>>", "+--", "|", "$ ", "...\\>")) or re.match(r"^=+\s+=+", first):
            continue
        ends_literal = lines[-1].endswith("::")
        lines = [line for line in lines if not UNDERLINE.match(line.strip())]
        if text := _inline(_join_lines(lines)):
            kept.append(re.sub(r"::$", ":", text) if text != "::" else "")
        if ends_literal:
            skip_indent = indent
    return "\n\n".join(text for text in kept if text)


read = markup_reader(rst_to_text)


def _join_lines(lines: list[str]) -> str:
    """Join wrapped lines; one line per list item."""
    out: list[list[str]] = []
    for line in lines:
        stripped = line.strip()
        if not out or re.match(r"^([*+-]|#\.|\d+[.)]|\(\w\))\s", stripped):
            out.append([stripped])
        else:
            out[-1].append(stripped)
    return "\n".join(re.sub(r"^([*+-]|#\.)\s+", "- ", " ".join(parts)) for parts in out)


def _inline(text: str) -> str:
    text = ROLE.sub(lambda match: _label(match.group(1)), text)
    text = LITERAL.sub(r"\1", text)
    text = REFERENCE.sub(lambda match: _label(match.group(1)), text)
    text = INTERPRETED.sub(lambda match: _label(match.group(1)), text)
    return EMPHASIS.sub(r"\1", text).strip()


def _label(content: str) -> str:
    """Displayed part of a role: the title of `title <target>`, the last name of `~a.b.c`."""
    shown = re.sub(r"<[^<>]*+>$", "", content).rstrip()
    return shown.rsplit(".", 1)[-1] if shown.startswith("~") else shown.lstrip("!")
