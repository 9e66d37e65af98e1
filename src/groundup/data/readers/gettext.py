"""Gettext catalogues (.po): messages of a program and their translations."""

import re
from collections.abc import Iterator
from typing import IO, Any

from groundup.data.archive import open_decompressed
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.held_out_conversations import HELD_OUT, is_held_out
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.reader_options import MAX_BYTES, ReaderOptions, read_bounded

LINE = re.compile(r'^(?P<key>msgctxt|msgid|msgstr)?\s*"(?P<text>.*)"\s*$')
FUZZY = re.compile(r"^#,.*\bfuzzy\b", re.MULTILINE)
FORMAT = re.compile(r"^#,(?:.*,)?\s*(?!no-)\w[\w-]*-format\b", re.MULTILINE)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class FormatString(str):
    """A message with placeholders such as %(name)s."""


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per translated message: the message, and its translation in the next line.

    Those that fine-tuning holds out, and messages with placeholders, are dropped.
    """
    name, stream = open_decompressed(name, stream)
    data = read_bounded(stream, MAX_BYTES)
    if data is None:
        yield DroppedDocument("too_large", name)
        return
    for number, entry in enumerate(parse_gettext(decode_bytes(data).text, name), start=1):
        position = f"{name}:{number}"
        if isinstance(entry, FormatString):
            yield DroppedDocument("format_string", position, entry)
        elif is_held_out(entry[0], options.held_out_conversations):
            yield DroppedDocument(HELD_OUT, position)
        else:
            yield Document("\n".join(entry), position)


def parse_gettext(text: str, name: str) -> list[Any]:
    """[message, translation] of each entry that has both, without the header, plurals and fuzzy entries.

    A message with placeholders is a FormatString instead.
    """
    entries: list[Any] = []
    for entry in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        if FUZZY.search(entry) or "\nmsgid_plural" in entry:
            continue
        parts: dict[str, str] = {}
        key = ""
        for line in entry.splitlines():
            if match := LINE.match(line):
                key = match["key"] or key
                parts[key] = parts.get(key, "") + _unescape(match["text"])
        if parts.get("msgid") and parts.get("msgstr"):
            is_format = FORMAT.search(entry) is not None
            entries.append(FormatString(parts["msgid"]) if is_format else [parts["msgid"], parts["msgstr"]])
    return entries


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), text)
