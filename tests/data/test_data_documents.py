"""PDF, DOCX, ODT, RTF, mail and subtitles: what a reader sees is what is read; damaged and hostile files are counted."""

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers import get_reader, office, pdf
from groundup.data.readers.pdf_layout import PageLine, compose_accents, layout_text
from groundup.data.readers.reader_options import ReaderOptions


def read(kind: str, name: str, data: bytes) -> list[ReadResult]:
    return list(get_reader(kind)(name, io.BytesIO(data), ReaderOptions()))


def text(kind: str, name: str, data: bytes) -> str:
    [found] = read(kind, name, data)
    assert isinstance(found, Document), found
    return found.text


def reasons(found: list[ReadResult]) -> list[str]:
    return [drop.reason for drop in found if isinstance(drop, DroppedDocument)]


def make_pdf(pages: list[bytes], stream: Callable[[bytes], bytes] = lambda data: data, entry: bytes = b"") -> bytes:
    """A PDF of content streams; /F1 is Helvetica, /F2 Courier, /I an image of one pixel."""
    numbers = [7 + 2 * index for index in range(len(pages))]
    resources = b"<</Font<</F1 3 0 R/F2 4 0 R>>/XObject<</I 5 0 R>>>>"
    objects = {
        1: b"<</Type/Catalog/Pages 2 0 R>>",
        2: b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), b" ".join(b"%d 0 R" % number for number in numbers)),
        3: b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
        4: b"<</Type/Font/Subtype/Type1/BaseFont/Courier>>",
        5: b"<</Type/XObject/Subtype/Image/Width 1/Height 1/BitsPerComponent 8/ColorSpace/DeviceGray/Length 1>>"
        b"stream\n0\nendstream",
    }
    for number, content in zip(numbers, pages, strict=True):
        data = stream(content)
        objects[number] = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources%s/Contents %d 0 R>>" % (
            resources,
            number + 1,
        )
        objects[number + 1] = b"<</Length %d%s>>stream\n%s\nendstream" % (len(data), entry, data)
    body = b"%PDF-1.4\n" + b"".join(b"%d 0 obj\n%s\nendobj\n" % item for item in objects.items())
    return body + b"trailer<</Root 1 0 R>>\n%%EOF\n"


def page(*lines: str, font: str = "F1", left: int = 72, top: int = 700) -> bytes:
    """Lines 14 points apart; an empty one leaves a gap."""
    rows = b"".join(b"(%s) Tj 0 -14 Td " % line.encode("cp1252") for line in lines)
    return b"BT /%s 11 Tf %d %d Td %s ET " % (font.encode(), left, top, rows)


PARAGRAPH = (
    "The mill at the end of the valley has been closed since the war, and nobody",
    "in the village remembers when the last flour was ground there; its wheel,",
    "they say, turned for the last time in winter.",
)


def test_pdf_lines_become_paragraphs():
    code = page("def mill(flour):", "    return flour", font="F2", top=600)
    data = make_pdf([page(*PARAGRAPH, "", "A second paragraph begins here.") + code])
    assert text("pdf", "a.pdf", data) == (
        " ".join(PARAGRAPH) + "\n\nA second paragraph begins here.\n\ndef mill(flour):\n    return flour"
    )


def test_pdf_without_running_heads_and_page_numbers():
    pages = [
        page(f"The Mill - chapter {number}", "", *PARAGRAPH, f"Page {name} ends.") + page(str(number), top=60)
        for number, name in enumerate(("one", "two", "three", "four"), start=1)
    ]
    found = text("pdf", "a.pdf", make_pdf(pages))
    assert found.count("The Mill - chapter") == 1, "the first page has the title"
    assert found.count("Page ") == 4
    assert not any(paragraph.isdigit() for paragraph in found.split("\n\n"))


def test_pdf_hyphens_at_line_ends():
    lines = [
        PageLine("The well-known miller and the inter\ufffenational mill of the well\ufffeknown"),
        PageLine("miller, in 1914\ufffe18, at Stoke\ufffeTrent."),
    ]
    assert layout_text([lines]) == (
        "The well-known miller and the international mill of the well-known miller, in 1914-18, at Stoke-Trent."
    )


def test_pdf_hyphen_does_not_end_a_paragraph():
    lines = [*PARAGRAPH[:1], "The miller of the village has a house beside the inter-", "national mill, and from his house",
             "he hears it from morning until evening."]  # fmt: skip
    found = text("pdf", "a.pdf", make_pdf([page(*PARAGRAPH) + page(*lines, top=500)]))
    assert found.count("\n\n") == 1
    assert found.endswith("the international mill, and from his house he hears it from morning until evening.")


def test_pdf_code_ends_where_prose_begins():
    lines = [
        PageLine("and the package is loaded by this directive, which is read first:", 72, 500, 700, 10, 11),
        PageLine("useDynLib(mill, .registration = TRUE)", 90, 300, 686, 10, 11, True),
        PageLine("causes the library to be loaded, before any of its routines is called", 72, 500, 672, 10, 11),
        PageLine("by others.", 72, 110, 658, 10, 11),
    ]
    assert layout_text([lines]).split("\n\n")[1:] == [
        "useDynLib(mill, .registration = TRUE)",
        "causes the library to be loaded, before any of its routines is called by others.",
    ]


def test_pdf_heading_of_two_lines():
    body = [PageLine(f"A line of the text of the page, number {n},", 72, 500, 600 - 12 * n, 10, 10) for n in range(5)]
    heading = [
        PageLine("Type Specialization for Dynamic", 100, 460, 700, 16, 18),
        PageLine("Languages", 240, 330, 680, 16, 18),
    ]
    assert layout_text([heading + body]).startswith("Type Specialization for Dynamic Languages\n\nA line")


def test_pdf_accents_of_older_tex_fonts():
    assert (
        compose_accents("comenc¸a la indicaci´o, divis`ories, l´ınia i g¨u`e")
        == "comença la indicació, divisòries, línia i güè"
    )
    assert compose_accents("a ˆβ, ˜ 5 and ´ alone; x`date`", is_code=True) == "a ˆβ, ˜ 5 and ´ alone; x`date`"


def test_pdf_contents_have_no_dots():
    lines = [
        PageLine("1 Introduction . . . . . . . . . . 1"),
        PageLine("2 The mill........ 12"),
        PageLine("It ends ..."),
    ]
    assert layout_text([lines]) == "1 Introduction\t1\n\n2 The mill\t12\n\nIt ends ..."


def test_pdf_columns_and_pages_continue_a_sentence():
    first = PageLine("The wheel turned for the", 72, 200, 100, 12, 11)
    second = PageLine("last time in winter.", 320, 420, 700, 12, 11)
    assert layout_text([[first, second]]) == "The wheel turned for the last time in winter."
    assert layout_text([[first], [second]]) == "The wheel turned for the last time in winter."


def test_scanned_pages_are_counted():
    scan = b"q 612 0 0 792 0 0 cm /I Do Q"
    found = read("pdf", "a.pdf", make_pdf([page(*PARAGRAPH), scan, scan]))
    assert reasons(found) == ["scanned_page", "scanned_page"]
    assert [drop.id for drop in found[:2]] == ["a.pdf#page=2", "a.pdf#page=3"]
    assert isinstance(found[2], Document)
    assert reasons(read("pdf", "a.pdf", make_pdf([scan + page(*PARAGRAPH)]))) == [], "a text layer under the scan"
    assert reasons(read("pdf", "a.pdf", make_pdf([b""]))) == ["no_text"]


def test_damaged_and_hostile_pdfs_are_one_line(monkeypatch: pytest.MonkeyPatch):
    good = make_pdf([page(*PARAGRAPH)])
    assert reasons(read("pdf", "a.pdf", b"%PDF-1.4\n" + b"\xff" * 1000)) == ["broken_pdf"]
    assert all(isinstance(found, Document | DroppedDocument) for found in read("pdf", "a.pdf", good[: len(good) // 2]))
    monkeypatch.setattr(pdf, "MAX_BYTES", 1 << 20)
    bomb = make_pdf([b" " * (4 << 20)], zlib.compress, b"/Filter/FlateDecode")
    assert reasons(read("pdf", "a.pdf", bomb)) == ["too_large"]
    loop = good.replace(b"/Kids[7 0 R]", b"/Kids[2 0 R]")
    assert all(isinstance(found, DroppedDocument) for found in read("pdf", "a.pdf", loop))
    assert read("pdf", "a.txt", good) == []


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'


def make_zip(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/") + ".xml", content)
    return stream.getvalue()


def docx(body: str, notes: str = "") -> bytes:
    members = {"word__document": f"<w:document {W} {MC}><w:body>{body}</w:body></w:document>"}
    return make_zip(**members, **({"word__footnotes": f"<w:footnotes {W}>{notes}</w:footnotes>"} if notes else {}))


def paragraph(content: str) -> str:
    return f"<w:p>{content}</w:p>"


def run(words: str) -> str:
    return f'<w:r><w:rPr><w:b/></w:rPr><w:t xml:space="preserve">{words}</w:t></w:r>'


def test_docx_as_it_is_seen():
    tabs = "<w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr>"
    item = "<w:pPr><w:numPr><w:numId w:val='1'/></w:numPr></w:pPr>"
    style = "<w:pPr><w:pStyle w:val='ListBullet'/></w:pPr>"
    cell = "<w:tc>{}</w:tc>"
    body = "".join([
        paragraph(tabs + run("The ") + f"<w:hyperlink>{run('mill')}</w:hyperlink>" + run(" of 1914")),
        paragraph(f"<w:ins>{run('Added')}</w:ins><w:del><w:r><w:delText>Gone</w:delText></w:r></w:del>" + run(" text")),
        f"<w:sdt><w:sdtContent>{paragraph(run('In a form'))}</w:sdtContent></w:sdt>",
        paragraph(item + run("Flour")), paragraph(style + run("Bread")),
        f"<w:tbl><w:tr>{cell.format(paragraph(run('Year')))}{cell.format(paragraph(run('Sacks')))}</w:tr>"
        f"<w:tr>{cell.format(paragraph(run('1913')))}{cell.format(paragraph(run('210')))}</w:tr></w:tbl>",
        paragraph(
            "<w:r><mc:AlternateContent><mc:Choice><w:txbxContent>" + paragraph(run("In a box"))
            + "</w:txbxContent></mc:Choice><mc:Fallback>" + paragraph(run("In a box"))
            + "</mc:Fallback></mc:AlternateContent></w:r>"
        ),
        paragraph("<w:r><w:t>A line</w:t><w:br/><w:t>and another</w:t><w:instrText>PAGE</w:instrText></w:r>"),
    ])  # fmt: skip
    assert text("office", "a.docx", docx(body, paragraph(run("A note")))).split("\n\n") == [
        "The mill of 1914", "Added text", "In a form", "- Flour\n- Bread", "Year\tSacks\n1913\t210", "In a box",
        "A line\nand another", "A note",
    ]  # fmt: skip


def test_odt_as_it_is_seen():
    names = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text", "table")
    )
    body = """<text:tracked-changes><text:p>Gone</text:p></text:tracked-changes><text:h>The   mill</text:h>
        <text:p>One<text:s/>two<text:tab/>three <text:span>four</text:span> five<text:line-break/>six
        <office:annotation><text:p>A comment</text:p></office:annotation></text:p>
        <text:list><text:list-item><text:p>Flour</text:p></text:list-item></text:list>
        <table:table><table:table-row><table:table-cell><text:p>Year</text:p></table:table-cell>
        <table:table-cell><text:p>Sacks</text:p></table:table-cell></table:table-row></table:table>"""
    content = f"<office:document-content {names}><office:body>{body}</office:body></office:document-content>"
    expected = ["The mill", "One two\tthree four five\nsix", "- Flour", "Year\tSacks"]
    assert text("office", "a.odt", make_zip(content=content)).split("\n\n") == expected
    assert text("office", "a.fodt", content.encode()).split("\n\n") == expected


def test_rtf_as_it_is_seen():
    data = rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\f0 The \b mill\b0  caf\'e9 \u8364?5.\par Second\par}"
    assert text("office", "a.rtf", data) == "The mill café €5.\n\nSecond"


def test_damaged_and_hostile_office_files_are_one_line(monkeypatch: pytest.MonkeyPatch):
    assert reasons(read("office", "a.docx", docx("<w:p>")[:200])) == ["broken_office_file"]
    assert reasons(read("office", "a.docx", make_zip(other="<a/>"))) == ["broken_office_file"]
    assert reasons(read("office", "a.docx", docx("<w:p>"))) == ["broken_office_file"]
    assert reasons(read("office", "a.docx", docx(paragraph("")))) == ["no_text"]
    assert reasons(read("office", "a.docx", docx("<w:p>" * 100_000 + "</w:p>" * 100_000))) == ["broken_office_file"]
    monkeypatch.setattr(office, "MAX_BYTES", 1 << 20)
    assert reasons(read("office", "a.docx", docx(paragraph(run("a" * (2 << 20)))))) == ["too_large"]
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    laughs = f'<!DOCTYPE d [<!ENTITY a0 "ha">{entities}]><w:document {W}><w:p><w:t>&a11;</w:t></w:p></w:document>'
    assert reasons(read("office", "a.docx", make_zip(word__document=laughs))) == ["broken_office_file"]
    assert reasons(read("office", "a.rtf", rb"{\rtf1 " + b"a" * (17 << 20))) == ["too_large"]


BOX = b"""From a@example.org Thu Jan  1 00:00:00 2026
From: A <a@example.org>
Subject: =?utf-8?q?Caf=C3=A9?= at the
 mill
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

The caf=E9 opens.

>From here one sees the mill.

From b@example.org Fri Jan  2 00:00:00 2026
Subject: Both
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: multipart/alternative; boundary=y

--y
Content-Type: text/plain

Plain words.
--y
Content-Type: text/html

<p>Page words.</p>
--y--
--x
Content-Type: text/plain
Content-Disposition: attachment; filename=a.txt

Attached.
--x--

From c@example.org Sat Jan  3 00:00:00 2026
Subject: Page
Content-Type: text/html; charset=utf-8

<html><body><p>Only a page.</p></body></html>
"""


def test_mail_box():
    found = read("mail", "a.mbox", BOX)
    assert [each.text for each in found] == [
        "Café at the mill\n\nThe café opens.\n\nFrom here one sees the mill.", "Both\n\nPlain words.", "Page\n\nOnly a page.",
    ]  # fmt: skip
    assert [each.id for each in found] == ["a.mbox:1", "a.mbox:2", "a.mbox:3"]
    [message] = read("mail", "a.eml", BOX.partition(b"\n")[2].partition(b"\n\nFrom b@")[0])
    assert message.text.startswith("Café at the mill\n\nThe café")
    assert reasons(read("mail", "a.eml", b"Subject: x\n\n")) == ["no_text"]
    large = b"From a@b Thu Jan  1 00:00:00 2026\n\n" + b"a" * (17 << 20) + b"\n\n" + BOX
    assert [type(each) for each in read("mail", "a.mbox", large)] == [DroppedDocument, Document, Document, Document]
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=a%d\n\n--a%d\n" % (n, n) for n in range(2000))
    parts = b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n\nx\n" * 100_000
    header = b"Subject: " + b"=?utf-8?q?a?= " * 100_000 + b"\n\nHello"
    for hostile in (deep, parts, header):
        assert reasons(read("mail", "a.eml", hostile)) == ["too_complex"]


SRT = """1\r
00:00:01,000 --> 00:00:02,000\r
<i>The mill</i>\r
is closed.\r
\r
2\r
00:00:02,000 --> 00:00:03,000\r
Since 1914.\r
"""
VTT = """WEBVTT

NOTE a comment

name
00:01.000 --> 00:02.000
<v Fred>The mill
is <00:01.500>closed.

NOTE more

second
00:02.000 --> 00:03.000
Since 1914.
"""
ROLLING = """WEBVTT

00:01.000 --> 00:02.000
The mill is closed.

00:02.000 --> 00:03.000
The mill is closed.
Since 1914.
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.00,D,,0,0,0,,{\\i1}The mill\\Nis closed.
Comment: 0,0:00:01.00,0:00:02.00,D,,0,0,0,,Not shown.
Dialogue: 0,0:00:02.00,0:00:03.00,D,,0,0,0,,Since 1914.
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.srt", SRT), ("a.vtt", VTT), ("b.vtt", ROLLING), ("a.ass", ASS)],
    ids=lambda value: value[:5],
)
def test_subtitles(name: str, content: str):
    assert text("subtitles", name, content.encode()) == "The mill is closed.\nSince 1914."
    assert text("subtitles", name, content.encode("utf-16")) == "The mill is closed.\nSince 1914."


def test_damaged_subtitles_are_one_line(tmp_path: Path):
    assert reasons(read("subtitles", "a.srt", b"no times")) == ["broken_subtitles"]
    assert reasons(read("subtitles", "a.srt", b"a" * (5 << 20))) == ["too_large"]
    assert text("subtitles", "a.ass", ASS.replace("0,0:00:01.00", "x,0:00:01.00").encode()).startswith("The mill")


def test_damage_within_compressed_parts_is_one_line():
    whole = bytearray(docx("".join(paragraph(run(f"Sentence {number} of the mill.")) for number in range(50))))
    whole[60:90] = b"\xff" * 30
    assert reasons(read("office", "a.docx", bytes(whole))) == ["broken_office_file"]
    assert reasons(read("table", "a.xlsx", bytes(whole))) == ["broken_table"]
    wrong = BOX.replace(b"charset=iso-8859-1", b"charset*=''%ff%fe").replace(b"=?utf-8?q?", b"=?\xfftf-8?q?")
    assert all(isinstance(each, Document | DroppedDocument) for each in read("mail", "a.mbox", wrong))
