"""Web crawls as crawlers leave them: wrong codings, wrong lengths, several kinds of records, ARC."""

import gzip
import io
import random
import tarfile

import brotli
import pyarrow
import pytest

from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.file_kind import detect_kind
from groundup.data.readers import get_reader
from groundup.data.readers.http_body import decode_http_body
from groundup.data.readers.reader_options import ReaderOptions

SENTENCE = "says that the mill at the end of the valley has been closed since the war."


def page(number: int) -> bytes:
    return f"<html><body><p>Page {number} {SENTENCE}</p></body></html>".encode()


def record(
    number: int, kind: str = "response", wrong: int = 0, content_type: str = "text/html", head: str = "HTTP/1.1 200 OK\r\n",
    body: bytes | None = None,
) -> bytes:  # fmt: skip
    """A record whose length is off by `wrong` bytes. Of a response, `content_type` is the server's."""
    body = page(number) if body is None else body
    said = f"Content-Type: {content_type}\r\n" if content_type else ""
    block = f"{head}{said}\r\n".encode() + body if kind == "response" else body
    outer = said if kind != "response" else "Content-Type: application/http; msgtype=response\r\n"
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/{number}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\n{outer}Content-Length: {len(block) + wrong}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


def read(data: bytes, name: str = "a.warc") -> list[ReadResult]:
    return list(get_reader("web")(name, io.BytesIO(data), ReaderOptions(html_extractor="resiliparse")))


def texts(found: list[ReadResult]) -> list[str]:
    return [each.text for each in found if isinstance(each, Document)]


def reasons(found: list[ReadResult]) -> list[str]:
    return [each.reason for each in found if isinstance(each, DroppedDocument)]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip", "deflate"])
@pytest.mark.parametrize("body", [b"<html>", b"Plain text without a tag, as it is.", b"\n\n  <!-- a page --><html>"])
def test_plain_bodies_with_the_header_of_a_coding(coding: str, body: bytes):
    assert decode_http_body(body, "", coding, 1 << 20) == body


def test_plain_text_is_never_taken_for_brotli():
    for seed in range(500):
        text = bytes(random.Random(seed).choices(range(32, 127), k=200))
        assert decode_http_body(text, "", "br", 1 << 20) == text


def test_truncated_bodies_keep_what_came():
    body = b"The mill at the end. " * 3000 + bytes(random.Random(1).choices(range(32, 127), k=600_000))
    for coding, data in (
        ("br", brotli.compress(body, quality=5)),
        ("zstd", pyarrow.Codec("zstd").compress(body, asbytes=True)),
        ("gzip", gzip.compress(body)),
    ):
        decoded = decode_http_body(data[:-1000], "", coding, 1 << 20)
        assert decoded is not None
        assert body.startswith(decoded)
        assert len(decoded) > len(body) // 2


def test_gzip_bodies_of_several_members():
    parts = [b"One. " * 100, b"Two. " * 100, b"Three. " * 100]
    assert decode_http_body(b"".join(map(gzip.compress, parts)), "", "gzip", 1 << 20) == b"".join(parts)
    assert decode_http_body(b"".join(map(gzip.compress, parts)) + b"rubbish", "", "gzip", 1 << 20) == b"".join(parts)
    assert decode_http_body(gzip.compress(parts[0]) * 1000, "", "gzip", 1 << 10) is None


@pytest.mark.parametrize("is_gzip", [False, True])
@pytest.mark.parametrize("wrong", [-30, -1, 40, 500, 100_000, 10**10])
@pytest.mark.parametrize("kind", ["response", "request"])
def test_one_wrong_length_loses_one_record(wrong: int, is_gzip: bool, kind: str):
    records = [record(number) for number in range(10)]
    records[3] = record(3, kind, wrong)
    found = read(b"".join(map(gzip.compress, records)) if is_gzip else b"".join(records))
    assert [each.id for each in found if isinstance(each, Document)] == [f"http://a/{n}" for n in range(10) if n != 3]
    for each in found:
        assert isinstance(each, DroppedDocument) or each.text == f"Page {each.id[-1]} {SENTENCE}"
    [drop] = [each for each in found if isinstance(each, DroppedDocument)]
    assert drop.reason == "broken_record"
    assert f"{len(gzip.compress(records[3]) if is_gzip else records[3])} bytes skipped" in drop.text


def test_several_damaged_records_and_the_end():
    records = [record(number, wrong=50 * (number in (2, 5))) for number in range(9)]
    found = read(b"".join(records) + record(9)[:-40])
    assert [each.id[-1] for each in found if isinstance(each, Document)] == list("0134678")
    assert reasons(found) == ["broken_record"] * 3


def test_resources_conversions_and_pages_without_a_type():
    found = read(b"".join([
        record(0, "resource"), record(1, "resource", content_type="text/plain", body=b"Plain words."),
        record(2, "resource", content_type="image/png", body=b"\x89PNG"),
        record(3, "conversion", content_type="text/plain", body="Größe".encode()), record(4, "conversion"),
        record(5, content_type=""), record(6, content_type="", body=b"%PDF-1.4"), record(7, content_type="unknown/unknown"),
        record(8, "metadata"), record(9, content_type="TEXT/HTML; charset=utf-8"),
    ]))  # fmt: skip
    expected = {number: f"Page {number} {SENTENCE}" for number in (0, 4, 5, 7, 9)} | {1: "Plain words.", 3: "Größe"}
    assert {int(each.id[-1]): each.text for each in found if isinstance(each, Document)} == expected
    assert reasons(found) == ["not_html", "not_html"]
    log = record(0, "resource", content_type="text/plain").replace(b"http://a/0", b"metadata://log")
    assert read(log) == []
    assert reasons(read(record(0, content_type="", head="HTTP/1.0 302\r\n", body=b""))) == ["http_status"]


def arc(*records: tuple[str, bytes], wrong: int = 0) -> bytes:
    version = b"1 0 Test\nURL IP-address Archive-date Content-type Archive-length\n"
    head = b"filedesc://a.arc 0.0.0.0 20260101000000 text/plain %d\n%s\n" % (len(version), version)
    return head + b"".join(
        f"{address} 127.0.0.1 20260101000000 text/html {len(block) + wrong * (index == 1)}\n".encode() + block + b"\n"
        for index, (address, block) in enumerate(records)
    )


def test_arc_files():
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=iso-8859-1\r\nContent-Encoding: gzip\r\n\r\n"
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n"
    records = [(f"http://a/{n}", http + gzip.compress(page(n).replace(b"mill", b"caf\xe9"))) for n in range(4)]
    data = arc(*records, ("http://a/4", missing + page(4)), ("http://a/5", b"no headers"))
    for content in (data, gzip.compress(data)):
        found = read(content, "a.arc")
        assert texts(found) == [f"Page {n} {SENTENCE.replace('mill', 'café')}" for n in range(4)]
        assert reasons(found) == ["http_status", "no_http_headers"]
    assert detect_kind("a", data) == "web"
    for wrong in (-20, 30, 10**9):
        found = read(arc(*records, wrong=wrong), "a.arc")
        assert "http://a/0" in [each.id for each in found if isinstance(each, Document)]
        assert wrong == 10**9 or "http://a/3" in [each.id for each in found if isinstance(each, Document)]
    assert reasons(read(gzip.compress(data)[:-30], "a.arc.gz")) == ["broken_record"]


@pytest.mark.parametrize("is_gzip", [False, True])
def test_members_of_a_tar_that_is_read_in_order(is_gzip: bool):
    """Such a stream does not seek: fastwarc asks only for its position."""
    records = [record(number) for number in range(40)]
    data = b"".join(map(gzip.compress, records) if is_gzip else records)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("a.warc")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r|gz") as archive:
        stream = archive.extractfile(next(iter(archive)))
        assert stream is not None
        found = list(get_reader("web")("a.warc", stream, ReaderOptions(html_extractor="resiliparse")))
    assert texts(found) == texts(read(data))
    assert len(texts(found)) == 40
