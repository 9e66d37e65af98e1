"""Malicious input: bounded memory, linear time, every drop counted."""

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from groundup.artifacts.errors import UserError
from groundup.data import archive
from groundup.data.clean import c4, normalize, pii
from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.document_reader import read_file
from groundup.data.inputs import InputFile
from groundup.data.readers import get_reader, html_markup, jsonl, markdown, rst, table, text, wikipedia
from groundup.data.readers.books import strip_gutenberg
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.http_body import decode_http_body
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.wikitext import wikitext_to_text
from groundup.recipe.data_config import PiiConfig


def read(kind: str, name: str, data: bytes) -> list[ReadResult]:
    return list(get_reader(kind)(name, io.BytesIO(data), ReaderOptions(html_extractor="resiliparse")))


def reasons(found: list[ReadResult]) -> list[str]:
    return [drop.reason for drop in found if isinstance(drop, DroppedDocument)]


HURTFUL: list[tuple[Callable[[str], object], tuple[str, ...]]] = [
    (
        wikitext_to_text,
        (
            "<ref>",
            "<div>",
            "[http://a",
            "[http://a ",
            "\n",
            "\u2003",
            "{|",
            "{{",
            "[[",
            "{{a}}",
            "({{a}} ",
            "({{a|b}} ",
            "Dr. X {{a|b}} ",
            "({{a}}) ",
            "'''",
            "<sup>",
            "<b a=",
            "<poem>",
            "=a=",
        ),
    ),
    (markdown.markdown_to_text, ("a `", "``a ", "_a ", "*a ", "![", "[a](", "<http://", "# #", "<!--")),
    (rst.rst_to_text, ("a:", ":a:", "`a <", "a\n", "``a ", "* ", "a\n ", "|a ", "a_ ")),
    (html_markup.keep_lists, ("<ul>", "<ul><li><a>", "<ul></ul>", "<a ")),
    (html_markup.join_lines, ("<pre>", "<pre></pre>\n")),
    (html_markup.raise_digits, ("<sup>", "<sub> ")),
    (lambda text: list(strip_gutenberg([text])), ("\n", " \n")),
    (normalize.normalize, (" ", " \t", "\u00c3")),
    (pii.pii_mapper(PiiConfig()), ("sk-", "-eyJaaaaaaaaaaaaaaaa", "-----BEGIN PRIVATE KEY-----", "1 ", "a@b.")),
    (c4.c4_filter(c4.C4Config()), (".", "?'")),
]


@pytest.mark.parametrize(
    ("work", "part"),
    [(work, part) for work, parts in HURTFUL for part in parts],
    ids=lambda value: getattr(value, "__name__", repr(value)[:30]),
)
@pytest.mark.timeout(60)
def test_patterns_run_in_linear_time(work: Callable[[str], object], part: str):
    """A quadratic pattern would need minutes for this, a linear one a fraction of a second."""
    work(part * (300_000 // len(part)) + "x")


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_http_bodies_in_every_coding():
    page = b"words " * 5_000
    brotli, zstd = (pyarrow.Codec(name).compress(page, asbytes=True) for name in ("brotli", "zstd"))
    assert decode_http_body(brotli, "", "br", 1 << 20) == page
    assert decode_http_body(zstd, "", "zstd", 1 << 20) == page
    assert decode_http_body(gzip.compress(brotli), "", "br, gzip", 1 << 20) == page
    assert page.startswith(decode_http_body(brotli[:-3], "", "br", 1 << 20) or b"")
    for name, coding in (("brotli", "br"), ("zstd", "zstd")):
        bomb = pyarrow.Codec(name).compress(b"\0" * (64 << 20), asbytes=True)
        assert decode_http_body(bomb, "", coding, 1 << 20) is None
        assert peak(lambda bomb=bomb, coding=coding: decode_http_body(bomb, "", coding, 1 << 20)) < 8 << 20


def test_python_codecs_that_are_not_charsets_are_ignored():
    assert decode_bytes(b"plain-" * 100_000, "punycode").text.startswith("plain-plain")


def test_endless_line_is_skipped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jsonl, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(jsonl, "MAX_SKIPPED_BYTES", 4 << 20)
    monkeypatch.setattr(table, "MAX_BYTES", 1 << 20)
    good = b'{"text": "one"}\n'
    assert [type(each) for each in read("jsonl", "a.jsonl", b"9" * (2 << 20) + b"\n" + good)] == [
        DroppedDocument,
        Document,
    ]
    bomb = gzip.compress(b"9" * (100 << 20) + b"\n" + good)
    assert reasons(read("jsonl", "a.jsonl.gz", bomb)) == ["too_large"]
    assert peak(lambda: read("jsonl", "a.jsonl.gz", bomb)) < 16 << 20
    for rows in (b"text\n" + b"a," * (1 << 20), b'text\n"' + b"a\n" * (1 << 20)):
        assert reasons(read("table", "a.csv", rows)) == ["broken_table"]


def test_huge_text_is_read_in_parts(monkeypatch: pytest.MonkeyPatch):
    class Endless(io.RawIOBase):
        """Lines for as long as anyone asks, up to `left` bytes."""

        left = 300 << 20

        def read(self, size: int = -1) -> bytes:
            amount = min(size, self.left)
            self.left -= amount
            return (b"Nobody has lived there since the war.\n" * (amount // 38 + 1))[:amount]

    found = get_reader("text")("a.txt", Endless(), ReaderOptions())
    assert peak(lambda: [len(each.text) for each in found]) < 8 << 20

    monkeypatch.setattr(text, "MAX_BYTES", 1 << 20)
    bomb = read("text", "a.txt.gz", gzip.compress(b"a " * (20 << 20)))
    assert reasons(bomb) == ["too_large"]
    assert len(bomb) < 70
    assert reasons(read("text", "a.txt.gz", gzip.compress(bytes(20 << 20)))) == ["not_text"]


def test_endless_page_ends_the_dump(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wikipedia, "MAX_ELEMENTS", 1_000)
    assert reasons(read("wikipedia", "d.xml", b"<m><page>" + b"<x/>" * 5_000)) == ["broken_dump"]
    assert reasons(read("wikipedia", "d.xml", b"<m>" + b"<x>" * 500)) == ["broken_dump"]


def test_full_history_gives_last_revision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wikipedia, "MAX_WIKI_PAGE_BYTES", 1 << 20)
    revisions = "".join(f"<revision><text>{n} {'word ' * 2_000}</text></revision>" for n in range(400))
    (found,) = read("wikipedia", "d.xml", f"<m><page><title>A</title>{revisions}</page></m>".encode())
    assert isinstance(found, Document)
    assert found.text.startswith("399 ")


def test_repeated_chapter_in_spine_is_read_once():
    buffer = io.BytesIO()
    refs = '<itemref idref="1"/>' * 1_000
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("META-INF/container.xml", '<c><rootfile full-path="a.opf"/></c>')
        item = '<item id="1" href="b.html" media-type="application/xhtml+xml"/>'
        file.writestr("a.opf", f'<p xmlns="x">{item}{refs}</p>')
        file.writestr("b.html", f"<html><body><p>{'word ' * 100}</p></body></html>")
    assert len(read("books", "b.epub", buffer.getvalue())) == 1


def crawl(lengths: list[int]) -> bytes:
    """Records of equal pages whose headers are off by so many bytes, each a gzip member."""
    page = b"Sentences that stand here are long enough to be text. " * 20
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://x.org/{}\r\nContent-Length: {}\r\n\r\n"
    return b"".join(
        gzip.compress(head.format(n, len(page) + wrong).encode() + page + b"\r\n\r\n")
        for n, wrong in enumerate(lengths)
    )


@pytest.mark.parametrize("wrong", [-500, -3, 3, 500, 10**12])
def test_wrong_record_length_loses_no_other_member(wrong: int, tmp_path: Path):
    path = tmp_path / "c.warc.gz"
    path.write_bytes(crawl([0, wrong, 0, 0]))
    found = list(read_file("web", InputFile(path.name, path), ReaderOptions()))
    undamaged = {each.id for each in found if isinstance(each, Document) and each.text.count("Sentences") == 20}
    assert undamaged >= {"http://x.org/0", "http://x.org/3"}


def test_empty_files_and_unsafe_names_are_counted(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"")
    assert reasons(list(read_file("text", InputFile("a.txt", tmp_path / "a.txt"), ReaderOptions()))) == ["empty_file"]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("../evil.py", "x = 1")
        file.writestr("good.py", "x = 1")
    found = list(read_file("code", InputFile("z.zip", tmp_path / "z.zip"), ReaderOptions()))
    assert reasons(found) == ["unsafe_name"]
    assert len(found) == 2
    assert not (tmp_path.parent / "evil.py").exists()


def test_oversized_header_ends_the_archive(tmp_path: Path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "t.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"a" * 10_240)
    with pytest.raises(UserError, match="not a readable archive: a header of"):
        list(archive.iter_members(tmp_path / "t.tar"))
