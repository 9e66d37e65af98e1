"""Damaged files: readers return documents and drops, and cleaning decides on each document.

Valid files of every kind are damaged as disks, networks and people damage them. The slow run takes minutes.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundup.data.clean.cleaning_steps import CleaningStep, FilterContext, build_steps, clean_document
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.document_reader import read_file
from groundup.data.inputs import InputFile
from groundup.data.readers import get_reader
from groundup.data.readers.reader_options import ReaderOptions
from groundup.recipe.data_config import DataConfig

PROSE = "The old house of Ms. Ågren stands by the river, and nobody has lived there since the war. " * 6
PAGE = f"<html><head><meta charset=utf-8></head><body><nav>menu</nav><article><h1>H</h1><p>{PROSE}</p></article>"
DUMP = (
    "<mediawiki><page><title>A</title><ns>0</ns><revision><text>'''A''' {{box|[[b|c]]}} [[File:x|a [[b]]]] "
    "&lt;ref>x&lt;/ref> [http://x y]\n{| a\n|b\n|}\n== H ==\n* text</text></revision></page>"
    "<page><title>B</title><ns>1</ns><revision><text>talk</text></revision></page></mediawiki>"
)
MARKDOWN = (
    f"---\nt: 1\n---\n# A\n\n{PROSE} *e* **b** `c` [l](http://x) ![i](y)\n\n```\nx\n```\n| a |\n<b>c</b> <!-- d -->\n"
)
RST = f"A\n=\n\n{PROSE} :a:`~b.c` ``d`` `e <f>`_ *g*::\n\n    h\n\n.. note::\n\n    i\n\n* j\n  k\n"
CODE = "# Copyright X\nimport os\n\ndef f(x):\n    return os.path.join(x, 'a@b.org', '10.0.0.1')\n"
CELLS = [{"cell_type": "code", "source": ["%a\n", "b"]}, {"cell_type": "markdown", "source": "c"}]
LINES = json.dumps({"text": PROSE, "id": 1}) + '\n{"text": "two", "url": "u"}\n'
TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n" * 50, b"<!--", b"]]>", b"<![CDATA[", b"&#x110000;", b"{{", b"[[", b"{|",
    b"<div>" * 40, b"\x1f\x8b\x08", b"WARC/1.0\r\n", b"Content-Length: 99999999\r\n", b"Content-Encoding: br\r\n",
    b"Transfer-Encoding: chunked\r\n", b"charset=utf-7", b"\xed\xa0\x80", b"PK\x03\x04", b"../../x", b"-" * 9, b'"', b"\\ud800",
    b"[" * 2_000, b"9" * 5_000, b"A" * 5_000, b" " * 5_000,
)  # fmt: skip
"""Fragments that readers search for or fail on."""

BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Exceptions of the standard library for damaged compression."""


def record(body: bytes, kind: str = "response", headers: str = "") -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n{headers}\r\n".encode()
    block = body if kind == "conversion" else http + body
    return (
        (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://x.org/{kind}\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
            f"Content-Type: application/http\r\nContent-Length: {len(block)}\r\n\r\n"
        ).encode()
        + block
        + b"\r\n\r\n"
    )


def epub() -> bytes:
    return zipped({
        "META-INF/container.xml": '<c><rootfile full-path="a.opf"/></c>',
        "a.opf": '<p xmlns="x"><item id="1" href="b.html" media-type="application/xhtml+xml"/><itemref idref="1"/></p>',
        "b.html": PAGE,
    })  # fmt: skip


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name, text)
    return buffer.getvalue()


def tarred(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            file.addfile(info, io.BytesIO(text.encode("ascii", "replace")))
    return buffer.getvalue()


@cache
def samples() -> list[tuple[str, str, bytes]]:
    """Kind, name and bytes of valid files."""
    table = pyarrow.table({"text": [PROSE, None, "three"], "url": ["u1", "u2", "u3"]})
    parquet, stream, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    page = PAGE.encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
    brotli, zstd = (pyarrow.Codec(name).compress(page, asbytes=True) for name in ("brotli", "zstd"))
    crawl = [
        record(page), record(b"", "revisit"), record(PROSE.encode(), "conversion"),
        record(chunked, headers="Transfer-Encoding: chunked\r\n"),
        record(gzip.compress(page), headers="Content-Encoding: gzip\r\n"),
        record(brotli, headers="Content-Encoding: br\r\n"), record(zstd, headers="Content-Encoding: zstd\r\n"),
    ]  # fmt: skip
    return [
        ("web", "c.warc", b"".join(crawl)),
        ("web", "c.warc.gz", b"".join(gzip.compress(part) for part in crawl)),
        ("wikipedia", "d.xml", DUMP.encode()),
        ("wikipedia", "d.xml.bz2", bz2.compress(DUMP.encode())),
        ("books", "b.txt", f"*** START OF THE PROJECT GUTENBERG EBOOK ***\nCHAPTER I\n\n{PROSE}".encode()),
        ("books", "b.epub", epub()),
        ("code", "a.py", CODE.encode()),
        ("code", "n.ipynb", json.dumps({"cells": CELLS}).encode()),
        ("text", "a.txt", PROSE.encode()),
        ("text", "a.txt.xz", lzma.compress(PROSE.encode())),
        ("text", "a.txt.zst", pyarrow.Codec("zstd").compress(PROSE.encode(), asbytes=True)),
        ("markdown", "a.md", MARKDOWN.encode()),
        ("rst", "a.rst", RST.encode()),
        ("html", "a.html", page),
        ("jsonl", "a.jsonl", LINES.encode()),
        ("jsonl", "a.jsonl.gz", gzip.compress(LINES.encode())),
        ("table", "a.csv", f'text,url\n"{PROSE}",u1\n"a\nb",u2\n'.encode()),
        ("table", "a.parquet", parquet.getvalue()),
        ("table", "stream.arrow", stream.getvalue()),
        ("huggingface", "train.arrow", file.getvalue()),
        ("code", "a.zip", zipped({"a.py": CODE, "b/c.js": "let x = 1"})),
        ("code", "a.tar", tarred({"a.py": CODE, "b/c.js": "let x = 1"})),
        ("code", "a.tar.gz", gzip.compress(tarred({"a.py": CODE, "LICENSE": "MIT License"}))),
    ]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A valid file with random damage."""
    kind, name, data = draw(st.sampled_from(samples()))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(start + draw(st.sampled_from((0, 1, 2, 4, 8, 64, 1_000))), len(data))
        part = draw(
            st.one_of(
                st.just(b""),  # lost
                st.binary(min_size=1, max_size=8),  # overwritten, or squeezed in
                st.sampled_from(TOKENS),
                st.just(data[start:stop] * 3),  # sent again
                st.just(bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[start:stop][:8])),
            )
        )
        rest = b"" if draw(st.integers(0, 9)) == 0 else data[stop:]  # one in ten breaks off
        data = data[:start] + part + rest
    return kind, name, data


def read_directly(kind: str, name: str, data: bytes) -> list[ReadResult]:
    """Results of the reader alone; damaged compression may raise the errors of the standard library."""
    found: list[ReadResult] = []
    try:
        found += get_reader(kind)(name, io.BytesIO(data), ReaderOptions(html_extractor="resiliparse"))
    except BROKEN as error:
        found.append(DroppedDocument("broken_file", name, str(error)))
    return found


def read_from_file(kind: str, name: str, data: bytes) -> list[ReadResult]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        return list(read_file(kind, InputFile(name, path), ReaderOptions(html_extractor="resiliparse")))


@cache
def cleaning_steps(kind: str) -> list[CleaningStep]:
    source = {"name": "x", "kind": kind, "path": "x"}
    config = DataConfig.model_validate({"sources": (source,), "c4": {"kinds": [kind]}})
    return build_steps(config, kind, True, FilterContext())


@pytest.mark.parametrize("examples", [400, pytest.param(40_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(3_000)
def test_damaged_files_never_raise(examples: int):
    @settings(
        max_examples=examples, deadline=None, derandomize=examples < 1_000, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(damaged())
    def check(sample: tuple[str, str, bytes]) -> None:
        kind, name, _ = sample
        found = read_from_file(*sample) if name.startswith("a.") and kind == "code" else read_directly(*sample)
        for read in found:
            assert isinstance(read, Document | DroppedDocument)
            assert isinstance(read.text, str)
            assert isinstance(read.id, str)
            if isinstance(read, Document):
                assert isinstance(
                    clean_document(read, cleaning_steps(kind), lambda *_: None), Document | DroppedDocument
                )

    check()


def test_samples_are_valid():
    for kind, name, data in samples():
        if kind == "code" and "ipynb" not in name:
            found = read_from_file(kind, name, data)
        else:
            found = read_directly(kind, name, data)
        assert any(isinstance(read, Document) for read in found), (kind, name, found)
        assert not any("broken" in read.reason for read in found if isinstance(read, DroppedDocument)), (
            kind,
            name,
            found,
        )
