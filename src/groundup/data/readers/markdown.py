"""Markdown reader: to plain text. Grammar: https://spec.commonmark.org."""

import re

from groundup.data.readers.text import markup_reader

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*)$")
UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})\s*$")
RULE = re.compile(r"^ {0,3}([-*_])(?:\s*\1){2,}\s*$")
TABLE = re.compile(r"^\s*\|.*\|\s*$")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*\S+")
TARGET = r"\([^()]*+(?:\([^()]*+\)[^()]*+)*+\)"
IMAGE = re.compile(rf"!\[[^\[\]]*+\]{TARGET}")
LINK = re.compile(rf"\[([^\[\]]++)\](?:{TARGET}|\[[^\[\]]*+\])")
ADDRESS = re.compile(r"<((?:https?|mailto):[^<>\s]*+)>")
EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=\S)((?:[^*]|(?<=\w)\*(?=\w))++)(?<=\S)\1(?!\w)"
    r"|(?<!\w)(_{1,3})(?=\S)((?:[^_]|(?<=\w)_(?=\w))++)(?<=\S)\3(?!\w)"
)
TICKS = re.compile(r"`+")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
TAG = re.compile(r"</?[a-zA-Z][^<>]{0,500}>")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
"""All patterns run in linear time on any text."""


def markdown_to_text(source: str) -> str:
    """Headings, paragraphs and lists as plain text; without link targets, images, tables and code blocks."""
    out: list[str] = []
    fence: str | None = None
    source = FRONT_MATTER.sub("", source.replace("\r\n", "\n"))
    closed, mark, rest = source.rpartition("-->")  # an unclosed comment is text
    source = TAG.sub("", COMMENT.sub("", closed + mark) + rest)
    for line in source.split("\n"):
        ticks = FENCE.match(line)
        if fence is not None:
            if ticks and ticks.group(1).startswith(fence):
                fence = None
            continue
        if ticks:
            fence = ticks.group(1)
            continue
        if TABLE.match(line) or DEFINITION.match(line) or RULE.match(line) or UNDERLINE.match(line):
            continue
        heading = HEADING.match(line)
        out.append(_inline(heading.group(1).rstrip().rstrip("#").rstrip() if heading else line.removeprefix("> ")))
    return "\n".join(out)


read = markup_reader(markdown_to_text)


def _inline(line: str) -> str:
    line = ADDRESS.sub(r"\1", LINK.sub(r"\1", IMAGE.sub("", line)))
    line = _without_ticks(line)
    for _ in range(2):  # emphasis within emphasis
        line = EMPHASIS.sub(lambda match: match.group(2) or match.group(4), line)
    return line


def _without_ticks(line: str) -> str:
    """Code spans without backticks: a run of backticks ends at the next run of the same length."""
    runs = [match.span() for match in TICKS.finditer(line)]
    following: dict[int, int] = {}
    closing: dict[int, int] = {}
    for number in range(len(runs) - 1, -1, -1):
        length = runs[number][1] - runs[number][0]
        if length in following:
            closing[number] = following[length]
        following[length] = number
    out, position, number = [], 0, 0
    while number < len(runs):
        if number in closing:
            opened, closed = runs[number], runs[closing[number]]
            out += [line[position : opened[0]], line[opened[1] : closed[0]]]
            position, number = closed[1], closing[number]
        number += 1
    return "".join([*out, line[position:]])
