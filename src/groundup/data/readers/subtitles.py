"""Subtitle reader: the spoken text of SubRip, WebVTT, SubStation and MicroDVD files, without times and styles."""

import html
import re
import warnings
from collections.abc import Iterator
from typing import IO

from groundup.data.archive import open_decompressed
from groundup.data.document import DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.reader_options import MAX_PAGE_BYTES, ReaderOptions, read_bounded
from groundup.data.readers.text import split_document

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".sub")
CUE_TIME = re.compile(r"^[ \t]*(?:\d{1,3}:)?\d{1,2}:\d{1,2}[.,]\d{1,3}[ \t]*-->.*$", re.MULTILINE)
ANY_TIME = "00:00:00,000 --> 00:00:01,000"
NOT_SPOKEN = re.compile(r"\s*(?:NOTE|STYLE|REGION)\b")
INNER_TIME = re.compile(r"<(?:\d+:)?\d+:\d+\.\d+>")


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document per file, one line per caption; a caption that is shown twice in a row once."""
    name, stream = open_decompressed(name, stream)
    if not options.by_content and not name.lower().endswith(SUBTITLE_SUFFIXES):
        return
    data = read_bounded(stream, MAX_PAGE_BYTES)
    if data is None:
        yield DroppedDocument("too_large", name)
        return
    from pysubs2 import SSAFile
    from pysubs2.exceptions import Pysubs2Error

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged styles
            captions = SSAFile.from_string(_cues_only(decode_bytes(data).text.replace("\0", "")), fps=25.0)
    except (Pysubs2Error, ValueError) as error:
        yield DroppedDocument("broken_subtitles", name, str(error))
        return
    lines: list[str] = []
    last = ""
    for caption in captions:
        shown = [" ".join(html.unescape(line).split()) for line in caption.plaintext.split("\n")]
        while shown and shown[0] in ("", last):  # rolling captions show the last line again
            del shown[0]
        if shown and not caption.is_comment:
            last = shown[-1]
            lines.append(" ".join(shown).strip())
    if lines:
        yield from split_document(name, "\n".join(lines))
    else:
        yield DroppedDocument("no_text", name)


def _cues_only(text: str) -> str:
    """SubRip and WebVTT without cue names, notes, styles and times within a cue, which pysubs2 takes for words."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    times = list(CUE_TIME.finditer(text))
    if not times:
        return text
    cues: list[str] = []
    for time, following in zip(times, [*times[1:], None], strict=True):
        body = text[time.end() : following.start() if following else None]
        blocks = re.split(r"\n[ \t]*\n", body.lstrip("\n") if body.startswith("\n") else body)
        last = blocks[-1].strip()
        if following and last and "\n" not in last and (len(blocks) > 1 or last.isdigit()):
            del blocks[-1]  # the name of the next cue
        lines = "\n".join(block for block in blocks if not NOT_SPOKEN.match(block)).strip()
        cues.append(f"{len(cues) + 1}\n{ANY_TIME}\n{INNER_TIME.sub('', lines)}\n")
    return "\n".join(cues)
