import bz2
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import get_args

import pyarrow
import pyarrow.parquet
import pytest

from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers import READERS, get_reader
from groundup.data.readers.html import EXTRACTORS
from groundup.data.readers.http_body import dechunk, decode_http_body
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.text import PART_BYTES
from groundup.recipe.data_config import DataConfig, SourceKind


def read(kind: str, name: str, data: bytes, **options: str) -> list[ReadResult]:
    return list(get_reader(kind)(name, io.BytesIO(data), ReaderOptions(**options)))  # type: ignore[arg-type]


def texts(found: list[ReadResult]) -> list[str]:
    return [document.text for document in found if isinstance(document, Document)]


def reasons(found: list[ReadResult]) -> list[str]:
    return [drop.reason for drop in found if isinstance(drop, DroppedDocument)]


def test_recipe_kinds_equal_readers():
    assert set(get_args(SourceKind)) == set(READERS)
    for kind in READERS:
        assert callable(get_reader(kind))
    assert set(get_args(DataConfig.model_fields["html_extractor"].annotation)) == set(EXTRACTORS)


# ---- Wikipedia

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo/>
<page><title>A</title><ns>0</ns><revision><text>'''A''' is a [[letter|sign]].</text></revision></page>
<page><title>B</title><ns>0</ns><redirect title="A"/><revision><text>#REDIRECT [[A]]</text></revision></page>
<page><title>Talk:A</title><ns>1</ns><revision><text>chat</text></revision></page>
</mediawiki>"""


def test_dump_articles():
    for name, data in (("d.xml", DUMP.encode()), ("d.xml.bz2", bz2.compress(DUMP.encode()))):
        found = read("wikipedia", name, data)
        assert texts(found) == ["A is a sign."]
        assert reasons(found) == ["redirect", "not_an_article"]


def test_multistream_dump():
    middle = DUMP.index("<page><title>B")
    data = bz2.compress(DUMP[:middle].encode()) + bz2.compress(DUMP[middle:].encode())
    assert texts(read("wikipedia", "multistream.xml.bz2", data)) == ["A is a sign."]


def test_truncated_dump():
    found = read("wikipedia", "d.xml", DUMP[: DUMP.index("<page><title>Talk")].encode())
    assert texts(found) == ["A is a sign."]
    assert reasons(found) == ["redirect", "broken_dump"]


# ---- books

BOOK = (
    "The Project Gutenberg EBook\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n{}\n\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nlicence"
)


def test_gutenberg_license_is_removed():
    assert texts(read("books", "b.txt", BOOK.format("CHAPTER I\n\nIt was night.").encode())) == [
        "CHAPTER I\n\nIt was night."
    ]


def test_book_is_split_at_chapters_without_loss():
    chapters = [f"CHAPTER {number}\n\n" + "\n\n".join(["word " * 100] * 30) for number in range(8)]
    found = texts(read("books", "b.txt", BOOK.format("\n\n".join(chapters)).encode()))
    assert len(found) > 2
    assert all(piece.startswith("CHAPTER") for piece in found)
    assert "".join("\n\n".join(found).split()) == "".join("\n\n".join(chapters).split())


def epub(chapters: dict[str, str], order: list[str]) -> bytes:
    items = "".join(
        f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(order)
    )
    refs = "".join(f'<itemref idref="i{n}"/>' for n in range(len(order)))
    opf = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{refs}</spine></package>'
    container = '<container xmlns="urn:x"><rootfiles><rootfile full-path="OEBPS/c.opf"/></rootfiles></container>'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("META-INF/container.xml", container)
        file.writestr("OEBPS/c.opf", opf)
        for name, text in chapters.items():
            file.writestr(f"OEBPS/{name}", f"<html><body><h1>{name}</h1><p>{text}</p></body></html>")
    return buffer.getvalue()


def test_epub_follows_the_spine():
    chapters = {"b.xhtml": "second " * 60, "a.xhtml": "first " * 60, "cover.xhtml": "x"}
    found = read("books", "x.epub", epub(chapters, ["cover.xhtml", "a.xhtml", "b.xhtml"]))
    assert [text.split()[1] for text in texts(found)] == ["first", "second"]
    assert reasons(found) == ["no_main_text"]


def test_epub_with_outside_reference_is_broken():
    assert reasons(read("books", "x.epub", epub({"a.xhtml": "x"}, ["../../../etc/passwd"]))) == ["broken_book"]


# ---- the web

PAGE = (
    "<html><head><title>T</title></head><body><nav><a href=x>menu</a></nav>"
    "<article><h1>Head</h1>{}</article></body></html>"
).format(
    "".join(
        f"<p>Paragraph number {number} tells something that nobody knew about the old town.</p>" for number in range(8)
    )
)


def record(
    body: bytes, *, status: str = "200 OK", kind: str = "response", headers: str = "", type_: str = "text/html"
) -> bytes:
    http = f"HTTP/1.1 {status}\r\nContent-Type: {type_}\r\n{headers}\r\n".encode() + body
    block = body if kind == "conversion" else http
    mime = "text/plain" if kind == "conversion" else "application/http; msgtype=response"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://example.org/{kind}\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: {mime}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def test_crawl_pages_and_dropped_records():
    crawl = b"".join(
        gzip.compress(part)
        for part in (
            record(PAGE.encode()),
            record(b"", status="404 Not Found"),
            record(b"\x89PNG", type_="image/png"),
            record(b"", kind="revisit"),
            record(b"WET text is text already. " * 3, kind="conversion"),
        )
    )
    found = read("web", "c.warc.gz", crawl)
    assert "Paragraph number 3" in texts(found)[0]
    assert "menu" not in texts(found)[0]
    assert texts(found)[1].startswith("WET text")
    assert reasons(found) == ["http_status", "not_html", "revisit"]


@pytest.mark.parametrize("html_extractor", ["trafilatura", "resiliparse"])
def test_both_extractors_find_the_main_text(html_extractor: str):
    (text,) = texts(read("html", "a.html", PAGE.encode(), html_extractor=html_extractor))
    assert text.count("Paragraph number") == 8
    assert "menu" not in text


def test_http_bodies_are_decoded_by_content():
    page = PAGE.encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (page[:100], page[100:])) + b"0\r\n\r\n"
    headers = "Transfer-Encoding: chunked\r\n"
    for body, said in (
        (chunks, headers),
        (page, headers),  # the crawler undid it and left the header
        (gzip.compress(page), "Content-Encoding: gzip\r\n"),
        (page, "Content-Encoding: gzip\r\n"),
        (gzip.compress(page)[:-20], "Content-Encoding: gzip\r\n"),
    ):
        (text,) = texts(read("web", "c.warc", record(body, headers=said)))
        assert "Paragraph number 1" in text
    assert dechunk(b"5\r\nhello\r\nzz") == b"hello"


def test_compression_bomb_is_refused():
    bomb = gzip.compress(b"\0" * (50 << 20))
    assert decode_http_body(bomb, "", "gzip", 1 << 20) is None
    assert reasons(read("web", "c.warc", record(bomb, headers="Content-Encoding: gzip\r\n"))) == ["too_large"]


def test_damaged_member_loses_no_other(tmp_path: Path):
    good = gzip.compress(record(PAGE.encode()))
    bad = bytearray(gzip.compress(record(PAGE.replace("old", "new").encode())))
    bad[40:90] = b"\xff" * 50
    path = tmp_path / "c.warc.gz"
    path.write_bytes(good + bytes(bad) + good + good[: len(good) // 2])
    with path.open("rb") as stream:
        found = list(get_reader("web")("c.warc.gz", stream, ReaderOptions()))
    undamaged = [text for text in texts(found) if "number 7" in text]
    assert len(undamaged) == 2
    assert "broken_record" in reasons(found)


def test_malicious_pages_are_refused():
    assert reasons(read("html", "a.html", b"<div>" * 2_000)) == ["too_complex"]
    assert reasons(read("html", "a.html", b"<b>x" * 60_000)) == ["too_complex"]
    assert reasons(read("html", "a.html", b"<p>" + b"x" * (5 << 20))) == ["too_large"]


# ---- code, tables, markup


def test_code_reader_takes_source_files_only():
    notebook = json.dumps({"cells": [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": "%matplotlib inline\nprint(1)", "outputs": [{"data": "no"}]},
    ]})  # fmt: skip
    assert texts(read("code", "a/b.py", b"print('x')\n")) == ["print('x')\n"]
    assert read("code", "a/readme.txt", b"x") == []
    assert reasons(read("code", "a/node_modules/b.js", b"x")) == ["vendored"]
    assert reasons(read("code", "a/b.min.js", b"x")) == ["generated"]
    assert reasons(read("code", "a/b.c", b"\0\0")) == ["not_text"]
    assert texts(read("code", "n.ipynb", notebook.encode())) == ["# # Title\n# words\n\nprint(1)\n"]
    assert reasons(read("code", "n.ipynb", b'{"cells": 3}')) == ["broken_notebook"]
    heading = {"cell_type": "heading", "level": 2, "source": ["Title"]}
    older = {"worksheets": [{"cells": [heading, {"cell_type": "code", "input": ["print(1)"]}]}]}
    assert texts(read("code", "n.ipynb", json.dumps(older).encode())) == ["# ## Title\n\nprint(1)\n"]


def test_notebook_lines_that_are_code_stay():
    lines = "data\n%>% head()\n%matplotlib inline\n!ls"
    cell = {"cell_type": "code", "source": lines}
    python = json.dumps({"cells": [{"cell_type": "code", "source": 'a = """\n%s\n""" \\\n% b\n%%time'}]})
    r = json.dumps({"cells": [cell], "metadata": {"kernelspec": {"language": "R"}}})
    assert texts(read("code", "n.ipynb", python.encode())) == ['a = """\n%s\n""" \\\n% b\n']
    assert texts(read("code", "n.ipynb", r.encode())) == [lines + "\n"]


def test_json_lines():
    lines = b'{"text": "one", "id": 7}\nnonsense\n{"other": 1}\n[1]\n\n{"text": "two"}'
    found = read("jsonl", "a.jsonl", lines)
    assert [(document.text, document.id) for document in found if isinstance(document, Document)] == [
        ("one", "7"),
        ("two", "a.jsonl:6"),
    ]
    assert reasons(found) == ["broken_line", "missing_column", "broken_line"]
    assert texts(read("jsonl", "a.jsonl.gz", gzip.compress(lines))) == ["one", "two"]
    assert texts(read("jsonl", "a.jsonl", b'{"content": "c"}', text_column="content")) == ["c"]


def test_tables_of_every_format(tmp_path: Path):
    table = pyarrow.table({"text": ["one", None, "three"], "url": ["u1", "u2", "u3"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table)
    with pyarrow.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as file:
        file.write_table(table)
    (tmp_path / "a.csv").write_text('text,url\none,u1\n,u2\n"thr\nee",u3\n')
    (tmp_path / "a.tsv").write_text("url\ttext\nu1\tone\n")
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        found = read("table", name, (tmp_path / name).read_bytes())
        assert [(read.id, getattr(read, "text", None)) for read in found if isinstance(read, Document)] == [
            ("u1", "one"),
            ("u3", "three"),
        ]
        assert reasons(found) == ["no_text"]
    assert texts(read("table", "a.csv", (tmp_path / "a.csv").read_bytes())) == ["one", "thr\nee"]
    assert texts(read("table", "a.tsv", (tmp_path / "a.tsv").read_bytes())) == ["one"]
    assert reasons(read("table", "a.parquet", b"PAR1 nonsense")) == ["broken_table"]


def test_dataset_folder_gives_training_split():
    line = b'{"text": "one"}'
    assert texts(read("huggingface", "data/train-00000-of-00001.jsonl", line)) == ["one"]
    assert reasons(read("huggingface", "data/test-00000-of-00001.jsonl", line)) == ["evaluation_split"]
    assert reasons(read("huggingface", "validation/a.jsonl", line)) == ["evaluation_split"]
    assert read("huggingface", "README.md", b"# test") == []
    assert texts(read("huggingface", "latest/attestation.jsonl", line)) == ["one"], "a word is no split"


def test_binary_file_is_not_text():
    assert reasons(read("text", "a.txt", b"ab\0cd")) == ["not_text"]
    assert texts(read("text", "a.txt", "\ufeffhé".encode())) == ["hé"]
    assert texts(read("text", "a.txt", "hé".encode("utf-16"))) == ["hé"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark", ["\n\n", "\n", " ", ""])
def test_long_text_is_split_without_loss(encoding: str, mark: str):
    sentence = "The mill by the river stood empty for a hundred years, said Ågren"
    text = mark.join([sentence if mark.strip(" ") == mark else sentence.replace(" ", "_")] * 20_000)
    found = read("text", "a.txt", text.encode(encoding))
    parts = texts(found)
    assert len(parts) > 3
    assert [each.id for each in found] == [f"a.txt#{number}" for number in range(1, len(parts) + 1)]
    assert "".join(parts) == text
    assert all(part.endswith(mark) for part in parts[:-1])
    assert all(len(part.encode()) < 2 * PART_BYTES for part in parts)
    assert "".join("".join(texts(read("markdown", "a.md", text.encode()))).split()) == "".join(text.split())


def test_long_book_loses_only_the_license():
    chapters = [f"CHAPTER {number}\n\n" + "\n\n".join(["word " * 100] * 30) for number in range(80)]
    found = texts(read("books", "b.txt", BOOK.format("\n\n".join(chapters)).encode()))
    assert "".join("\n\n".join(found).split()) == "".join("\n\n".join(chapters).split())
    assert sum(piece.startswith("CHAPTER") for piece in found) > len(found) - 10
