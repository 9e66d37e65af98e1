"""ARC files (https://archive.org/web/researcher/ArcFileFormat.php), the form of web crawls before WARC."""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from typing import IO

from groundup.data.document import DroppedDocument

ARC_START = b"filedesc://"
MAX_HEADER_BYTES = 1 << 16
RECORD_LINE = re.compile(rb"(\S+) \d{1,3}(?:\.\d{1,3}){3} \d{8,17} (\S+) (?:.* )?(\d{1,18})\r?\n")


@dataclass(frozen=True)
class ArcPage:
    """A response: its HTTP status, headers and body, which may be cut at the limit of the reader."""

    address: str
    status: int
    headers: dict[str, str]
    body: bytes


def iter_arc_records(name: str, stream: IO[bytes], is_gzip: bool, limit: int) -> Iterator[ArcPage | DroppedDocument]:
    """Responses; behind a damaged record reading goes on at the next line that begins one."""
    opened: IO[bytes] = gzip.GzipFile(fileobj=stream) if is_gzip else stream  # type: ignore[assignment]
    skipped = 0
    try:
        while line := opened.readline(MAX_HEADER_BYTES):
            found = RECORD_LINE.fullmatch(line)
            if found is None:
                skipped += len(line.strip())
                continue
            if skipped:
                yield DroppedDocument(
                    "broken_record", name, f"{skipped} bytes skipped before {found.group(1).decode('latin-1')}"
                )
                skipped = 0
            length = int(found.group(3))
            data = opened.read(min(length, limit + MAX_HEADER_BYTES))
            left = length - len(data)
            while left > 0 and (part := opened.read(min(left, 1 << 20))):
                left -= len(part)
            if not found.group(1).startswith(ARC_START):
                yield _parse_response(found.group(1).decode("latin-1"), data)
        if skipped:
            yield DroppedDocument("broken_record", name, f"{skipped} bytes skipped at the end")
    except (OSError, EOFError, zlib.error) as error:
        yield DroppedDocument("broken_record", name, str(error))


def _parse_response(address: str, data: bytes) -> ArcPage | DroppedDocument:
    end = re.search(rb"\r?\n\r?\n", data[:MAX_HEADER_BYTES])
    first, _, rest = data[: end.end()].partition(b"\n") if end else (b"", b"", b"")
    status = re.match(rb"HTTP/[\d.]+ (\d{3})", first)
    if end is None or status is None:
        return DroppedDocument("no_http_headers", address)
    headers = {name.lower(): str(value) for name, value in BytesParser().parsebytes(rest, headersonly=True).items()}
    return ArcPage(address, int(status.group(1)), headers, data[end.end() :])
