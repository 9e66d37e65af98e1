"""Kinds of files by content: every kind in one folder, with names that say nothing or something else."""

import base64
import bz2
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from groundup.artifacts.machine import Machine
from groundup.data import read_documents
from groundup.data.dedup_estimate import estimate_file_bytes
from groundup.data.document import Document
from groundup.data.document_reader import read_file_kinds
from groundup.data.file_kind import HEAD_BYTES, detect_kind
from groundup.data.inputs import resolve_files
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.stage import run
from groundup.recipe.data_config import FilesConfig, SourceConfig

PAGE = "<!DOCTYPE html><html><body><article><h1>Mill</h1><p>{}</p></article></body></html>"
DUMP = (
    "<mediawiki><page><title>Mill</title><ns>0</ns><revision><text>'''Mill''': {}</text></revision></page></mediawiki>"
)
CODE = "#!/usr/bin/env python3\nimport sys\n\n\ndef main(arguments):\n    return len(arguments)\n"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@pytest.fixture
def folder(tmp_path: Path, prose: Callable[..., str]) -> Path:
    """A file of every kind; expected kinds are in EXPECTED."""
    root = tmp_path / "mixed"
    (root / "sub").mkdir(parents=True)
    texts = [prose(seed, 150) for seed in range(12)]

    def write(name: str, content: str | bytes) -> None:
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    write("plain.txt", texts[0])
    write("README", "Title\n=====\n\n.. note::\n\n   Read this.\n\nSee :ref:`there` and :doc:`here`.\n\n" + texts[1])
    write("notes.md", "# Notes\n\nA [link](https://example.org).\n\n" + texts[2])
    write("page.txt", PAGE.format(texts[3]))
    write("tool", CODE)
    write("sub/module.py", CODE.replace("len", "max"))
    write("dump.xml", DUMP.format(texts[4]))
    write("dump.xml.bz2", bz2.compress(DUMP.format(texts[5]).encode()))
    write("records.json", "".join(json.dumps({"headline": "Mill", "story": text}) + "\n" for text in texts[6:8]))
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    write("chat.jsonl", json.dumps({"messages": turns}) + "\n")
    pyarrow.parquet.write_table(pyarrow.table({"number": [1], "abstract": [texts[8]]}), root / "table.parquet")
    write("story.txt.gz", gzip.compress(texts[9].encode()))
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        data = texts[10].encode()
        info = tarfile.TarInfo("deep/inner.txt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(root / "outer.zip", "w") as archive:
        archive.writestr("nested.tar.gz", inner.getvalue())
        archive.writestr("image.png", PNG)
    write("image.png", PNG)
    write("picture.txt", PNG + bytes(range(256)))
    write("messages.mo", b"\xde\x12\x04\x95\0\0\0\0")
    write("settings.json", '{\n "text": "no document"\n}')
    write("drawing.svg", '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')
    return root


EXPECTED = {
    "plain.txt": "text", "README": "rst", "notes.md": "markdown", "page.txt": "html", "tool": "code", "sub/module.py": "code",
    "Mill": "wikipedia", "records.json:1": "jsonl", "records.json:2": "jsonl", "chat.jsonl": "conversations",
    "table.parquet:1": "table", "story.txt": "text", "nested.tar.gz/deep/inner.txt": "text",
    "image.png": "unknown_kind", "picture.txt": "unknown_kind", "messages.mo": "unknown_kind",
    "settings.json": "unknown_kind", "drawing.svg": "unknown_kind",
}  # fmt: skip


def test_every_file_of_a_folder_is_read_by_its_kind(folder: Path):
    files = resolve_files(FilesConfig(name="mixed", path=str(folder)), Machine())
    found = [pair for file in files for pair in read_file_kinds("auto", file, ReaderOptions())]
    assert {result.id: kind for kind, result in found} == EXPECTED
    texts = {result.id: result.text for _, result in found if isinstance(result, Document)}
    assert not any(mark in text for text in texts.values() for mark in ("<article", "<mediawiki", "'''", ".. note"))
    assert len(texts["table.parquet:1"]) > 100
    assert len(texts["records.json:1"]) > 100
    assert {document.id for document in read_documents(folder)} == set(texts)


def test_filters_follow_the_kind_of_each_file(folder: Path, recipe: Any, machine: Machine, tmp_path: Path):
    metrics = run(recipe(sources=[{"name": "mixed", "path": str(folder)}]), {}, tmp_path / "out", machine)
    mixed = metrics["sources"]["mixed"]
    assert mixed["kinds"]["code"] == 2
    assert mixed["kinds"]["unknown_kind"] == 6
    dropped = {reason: counts["documents"] for reason, counts in mixed["dropped"].items()}
    assert dropped == {"conversations": 1, "unknown_kind": 6, "near_duplicate": 1}, "code is not filtered as prose"


@pytest.mark.parametrize(
    ("name", "head", "size", "kind"),
    [
        ("notes.txt", b"\xef\xbb\xbfHello", 5, "text"),
        ("notes.txt", "Füße\n".encode("utf-16"), 10, "text"),
        ("book.txt", b"The Project Gutenberg EBook of Hamlet", 40, "books"),
        ("book.txt", b"Chapter 1\n", 500_000, "books"),
        ("Makefile", b"all:\n\techo\n", 10, "code"),
        ("crawl.warc", b"WARC/1.0\r\n", 10, "web"),
        ("crawl", b"WARC/1.0\r\n", 10, "web"),
        ("paper.txt", b"%PDF-1.4 text", 13, "pdf"),
        ("report.docx", b"PK\x03\x04....", 8, "office"),
        ("report", b"PK\x03\x04....[Content_Types].xml....PK\x03\x04word/document.xml", 60, "office"),
        ("report", b"PK\x03\x04....mimetypeapplication/vnd.oasis.opendocument.textPK", 60, "office"),
        ("slides.pptx", b"PK\x03\x04....[Content_Types].xml", 30, "unknown_kind"),
        ("sheet.xlsx", b"PK\x03\x04....[Content_Types].xml", 30, "table"),
        ("letter.txt", b"{\\rtf1\\ansi Hello}", 18, "office"),
        ("film.txt", b"1\r\n00:00:01,000 --> 00:00:02,000\r\nHello\r\n", 40, "subtitles"),
        ("film", b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n", 40, "subtitles"),
        ("film", "1\n00:00:01,000 --> 00:00:02,000\nHello\n".encode("utf-16"), 80, "subtitles"),
        ("inbox", b"From a@b.org Thu Jan  1 00:00:00 2026\nFrom: a@b.org\n\nHello\n", 60, "mail"),
        ("1", b"Return-Path: <a@b.org>\nFrom: a@b.org\nMessage-ID: <1@b.org>\nSubject: Hello\n\nHello\n", 80, "mail"),
        ("notes.txt", b"From: the editor\nTo: the reader\nSubject: the mill\n\nHello\n", 60, "text"),
        ("app.jar", b"PK\x03\x04....", 8, "archive"),
        ("list.csv", b"a,b\n1,2\n", 8, "table"),
        ("long.jsonl", b'{"messages": [' + b" " * (1 << 16), 1 << 20, "conversations"),
        ("empty", b"   ", 3, "unknown_kind"),
    ],
)
def test_kind(name: str, head: bytes, size: int, kind: str):
    assert detect_kind(name, head[: 1 << 16], size) == kind


def test_dump_whose_first_bzip2_block_is_large(tmp_path: Path):
    """Names of real dumps do not end in .xml.bz2, and their first block is larger than the head of other files."""
    noise = random.Random(0)
    words = " ".join(f"{noise.getrandbits(40):x}" for _ in range(60_000))
    page = f"<page><title>Mill</title><ns>0</ns><revision><text>{words}</text></revision></page>"
    path = tmp_path / "enwiki-latest-pages-articles1.xml-p10p302.bz2"
    path.write_bytes(bz2.compress(f"<mediawiki>{page}</mediawiki>".encode()))
    assert path.stat().st_size > 2 * HEAD_BYTES
    assert [document.id for document in read_documents(str(path), kind="auto")] == ["Mill"]


PAGES = (
    b".TH LS 1\n.SH NAME\nls \\- list\n", b'.\\" made by a program\n.TH LS 1\n', b"'\\\" t\n.SH NAME\n", b".so man1/ls.1\n",
    b'.de Sp \\" space\n.TH LS 1\n', b".Dd May 1\n.Sh NAME\n",
)  # fmt: skip
LOG = "".join(
    f"2026-01-{n % 28:02} 12:{n % 60:02}:07,{n % 1000} INFO [worker-{n % 7}] Request {n} took {n % 313} ms\n"
    for n in range(5000)
)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        *((f"ls.{number}", page, "troff") for number, page in enumerate(PAGES)),
        ("ls.1.gz", gzip.compress(PAGES[0], mtime=0), "troff"),
        ("notes.txt", b".NET and .so files: the title of a page is set by\n.TH in troff.\n", "text"),
        ("blob.txt", base64.encodebytes(bytes(range(256)) * 10), "encoded"),
        ("dump.txt", (bytes(range(256)) * 10).hex().encode(), "encoded"),
        ("genome.fa", b">chr1\n" + b"ACGTTGCA" * 9 + (b"\n" + b"ACGTTGCA" * 9) * 200, "encoded"),
        ("text.txt", ("機械学習は、" * 200).encode(), "text"),
        ("app.log", LOG.encode(), "text"),
        ("book.txt", b"It was a bright cold day in April, and the clocks were striking thirteen. " * 3000, "books"),
    ],
)  # fmt: skip
def test_text_files_without_words_are_left_out_and_logs_are_no_books(name: str, content: bytes, kind: str):
    assert detect_kind(name, content[:HEAD_BYTES], len(content)) == kind


def test_planned_bytes_of_a_folder_are_those_of_its_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("A text of a few words. " * 100)
    (tmp_path / "b.bin").write_bytes(bytes(range(256)) * 100)
    spec = {"name": "mixed", "path": str(tmp_path)}
    assert estimate_file_bytes(SourceConfig.model_validate(spec), Machine()) == 2300
    assert estimate_file_bytes(SourceConfig.model_validate(spec | {"kind": "text"}), Machine()) == 2300 + 25600
