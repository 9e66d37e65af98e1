"""Markdown to prose that reads without a renderer. Source of the grammar: https://spec.commonmark.org."""

import re
from collections.abc import Iterator
from typing import IO

from groundup.data.document import Document, Dropped, Read
from groundup.data.readers import text as plain
from groundup.data.readers.options import Options

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})\s*$")
RULE = re.compile(r"^ {0,3}([-*_])(?:\s*\1){2,}\s*$")
TABLE = re.compile(r"^\s*\|.*\|\s*$")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*\S+")
IMAGE = re.compile(r"!\[[^\]]*\]\([^()]*(?:\([^()]*\)[^()]*)*\)")
LINK = re.compile(r"\[([^\]\[]+)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\]]*\])")
ADDRESS = re.compile(r"<((?:https?|mailto):[^>\s]*)>")
EMPHASIS = re.compile(r"(?<!\w)([*_]{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)")
CODE = re.compile(r"(`+)(.+?)\1")
TAG = re.compile(r"</?[a-zA-Z][^<>]{0,500}>|<!--.{0,5000}?-->", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def read(name: str, stream: IO[bytes], options: Options) -> Iterator[Read]:
    """One document a file."""
    for found in plain.read(name, stream, options):
        yield found if isinstance(found, Dropped) else Document(prose(found.text), found.id)


def prose(source: str) -> str:
    """The text with its headings, paragraphs and lists; marks, links' targets, images, tables and code blocks
    are left out.
    """
    out: list[str] = []
    fence: str | None = None
    for line in TAG.sub("", FRONT_MATTER.sub("", source.replace("\r\n", "\n"))).split("\n"):
        mark = FENCE.match(line)
        if fence is not None:
            if mark and mark.group(1).startswith(fence):
                fence = None
            continue
        if mark:
            fence = mark.group(1)
            continue
        if TABLE.match(line) or DEFINITION.match(line) or RULE.match(line) or UNDERLINE.match(line):
            continue
        heading = HEADING.match(line)
        out.append(_inline(heading.group(1) if heading else line.removeprefix("> ")))
    return "\n".join(out)


def _inline(line: str) -> str:
    line = ADDRESS.sub(r"\1", LINK.sub(r"\1", IMAGE.sub("", line)))
    return EMPHASIS.sub(r"\2", CODE.sub(r"\2", line))
