"""JSON and tables as people bring them: arrays, nested fields, lists, other delimiters and character sets, spreadsheets."""

import io
import json
import tracemalloc
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.file_kind import detect_kind
from groundup.data.filter_stats import FilterStats
from groundup.data.readers import get_reader, jsonl, table
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.text import PART_BYTES

SENTENCE = "The mill at the end of the valley has been closed since the war."


def read(kind: str, name: str, data: bytes | str, **options: object) -> list[ReadResult]:
    content = data.encode() if isinstance(data, str) else data
    return list(get_reader(kind)(name, io.BytesIO(content), ReaderOptions(**options)))  # type: ignore[arg-type]


def texts(found: list[ReadResult]) -> list[str]:
    return [each.text for each in found if isinstance(each, Document)]


def dropped(found: list[ReadResult]) -> list[tuple[str, str]]:
    return [(each.reason, each.text) for each in found if isinstance(each, DroppedDocument)]


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-8"])
def test_the_first_record_behind_a_byte_order_mark(mark: str):
    lines = '{"text": "één"}\n{"text": "twee"}\n'
    assert texts(read("jsonl", "a.jsonl", lines.encode(mark))) == ["één", "twee"]
    assert texts(read("table", "a.csv", "text;id\néén;1\ntwee;2\n".encode(mark))) == ["één", "twee"]


def test_tables_in_windows_character_sets():
    rows = "Name;text\n" + "".join(f"{n};Größe „{n}“ für das café – naïve Übung\n" for n in range(3))
    found = read("table", "a.csv", rows.encode("cp1252"))
    assert texts(found) == [f"Größe „{n}“ für das café – naïve Übung" for n in range(3)]
    assert {each.encoding.partition(",")[0] for each in found if isinstance(each, Document)} == {"cp1252"}
    assert texts(read("jsonl", "a.jsonl", '{"text": "Größe für das café, naïve"}\n'.encode("cp1252"))) == [
        "Größe für das café, naïve"
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_of_tables(delimiter: str):
    rows = [["id", "text"], ["1", '"One, two; three | four\tfive"'], ["2", '"A ""quoted"" word"']]
    content = "".join(delimiter.join(row) + "\r\n" for row in rows)
    assert texts(read("table", "a.csv", content)) == ["One, two; three | four\tfive", 'A "quoted" word']


def test_missing_column_names_those_that_there_are(tmp_path: Path):
    expected = [("missing_column", "no column text; columns: id, story")]
    assert dropped(read("table", "a.csv", "id,story\n1,One\n2,Two\n")) == expected
    assert dropped(read("jsonl", "a.jsonl", '{"id": 1, "story": "One"}')) == expected
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "story": ["One"]}), tmp_path / "a.parquet")
    assert dropped(read("table", "a.parquet", (tmp_path / "a.parquet").read_bytes())) == expected
    assert dropped(read("jsonl", "a.jsonl", '{"id": 1, "page": {"body": "One", "lang": "en"}}')) == [
        ("missing_column", "no column text; columns: id, page.body, page.lang")
    ]
    stats = FilterStats()
    stats.add_dropped(DroppedDocument(*expected[0][:1], "a.csv", expected[0][1]), 0)
    assert stats.top_reasons() == [
        "1 document: the column of the text is missing (data.sources[].text_column): no column text; columns: id, story"
    ]


def test_nested_fields_lists_and_bytes(tmp_path: Path):
    record = json.dumps({"id": 1, "page": {"body": "One", "parts": ["A", "B"], "none": None, "numbers": [1]}})
    for column, expected in (
        ("page.body", ["One"]),
        ("page.parts", ["A\n\nB"]),
        ("page.none", []),
        ("page.numbers", []),
    ):
        assert texts(read("jsonl", "a.jsonl", record, text_column=column)) == expected
    assert dropped(read("jsonl", "a.jsonl", record, text_column="page.none")) == [("no_text", "")]
    columns = {
        "text": [["A", "B"], []], "raw": ["é".encode(), "è".encode("cp1252")], "page": [{"body": "One"}, {"body": "Two"}],
        "dotted.name": ["x", "y"],
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    assert texts(read("table", "a.parquet", data)) == ["A\n\nB"]
    assert texts(read("table", "a.parquet", data, text_column="raw")) == ["é", "è"]
    assert texts(read("table", "a.parquet", data, text_column="page.body")) == ["One", "Two"]
    assert texts(read("table", "a.parquet", data, text_column="dotted.name")) == ["x", "y"]
    deep = json.dumps({"meta": {"source": "a long name of a source"}, "page": {"content": "One"}})
    assert texts(read("jsonl", "a.jsonl", deep, by_content=True)) == ["One"]


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_of_records(indent: int | None):
    records = [{"text": f"{SENTENCE} {n} \u2028 [x], {{y}}", "n": n} for n in range(3_000)]
    assert texts(read("jsonl", "a.json", json.dumps(records, indent=indent, ensure_ascii=False))) == [
        record["text"] for record in records
    ]
    nested = {"version": 2, "data": records[:2]}
    assert len(texts(read("jsonl", "a.json", json.dumps(nested, indent=2)))) == 2
    assert texts(read("jsonl", "a.json", json.dumps(records[0], indent=2))) == [records[0]["text"]]
    assert texts(read("jsonl", "a.json", json.dumps([SENTENCE, SENTENCE]))) == [SENTENCE, SENTENCE]
    assert texts(read("table", "a.jsonlines", json.dumps(records[0]))) == [records[0]["text"]]


def test_damaged_arrays_lose_no_other_record(monkeypatch: pytest.MonkeyPatch):
    records = ",\n".join(json.dumps({"text": f"{SENTENCE} {n}"}) for n in range(2_000))
    damaged = records.replace(f'"{SENTENCE} 7"', f'"{SENTENCE} 7')
    found = read("jsonl", "a.json", f"[{damaged}]")
    assert len(texts(found)) >= 1_998
    assert len(dropped(found)) == 1
    assert len(texts(read("jsonl", "a.json", f"[{records}"))) == 2_000, "cut behind a record"
    assert [reason for reason, _ in dropped(read("jsonl", "a.json", f"[{records[:-20]}"))] == ["broken_line"]
    assert [reason for reason, _ in dropped(read("jsonl", "a.json", "[" * 100_000))] == []
    assert [reason for reason, _ in dropped(read("jsonl", "a.json", '[{"a":' * 100_000))] == ["broken_line"]
    monkeypatch.setattr(jsonl, "MAX_BYTES", 1 << 20)
    tracemalloc.start()
    assert [reason for reason, _ in dropped(read("jsonl", "a.json", b'[{"text": "' + b"a" * (8 << 20)))] == [
        "too_large"
    ]
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_kinds_of_json_files():
    record = {"text": SENTENCE}
    assert detect_kind("a.json", json.dumps([record]).encode()) == "jsonl"
    assert detect_kind("a.jsonlines", json.dumps(record).encode()) == "jsonl"
    assert detect_kind("a.json", json.dumps({"data": [{"text": SENTENCE * 5}]}, indent=2).encode()) == "jsonl"
    assert detect_kind("a.json", json.dumps([{"name": "x", "version": 1}]).encode()) == "unknown_kind"
    chats = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi\u2028there"}]}]
    assert detect_kind("a.json", json.dumps(chats, indent=2).encode()) == "conversations"
    shared = [{"id": "a", "conversations": [{"from": "human", "value": "Hello " * n}]} for n in (3, 30_000)]
    for records in (shared, shared[::-1], [{"instruction": "Hello", "input": "", "output": "Hi"}]):
        assert detect_kind("a.json", json.dumps(records, indent=1).encode()[: 1 << 16]) == "conversations"
        assert detect_kind("a.jsonl", json.dumps(records[0]).encode()[: 1 << 16]) == "conversations"


def test_spreadsheets():
    book = openpyxl.Workbook()
    for sheet in (book.active, book.create_sheet("Second")):
        assert sheet is not None
        for row in (["title", "text"], ["a", SENTENCE], [None, None], ["b", "Größe"]):
            sheet.append(row)
    book.create_sheet("Third").append(["name"])
    book["Third"].append(["x"])
    stream = io.BytesIO()
    book.save(stream)
    data = stream.getvalue()
    found = read("table", "a.xlsx", data)
    assert [(each.id, each.text) for each in found if isinstance(each, Document)] == 2 * [
        ("a", SENTENCE),
        ("b", "Größe"),
    ]
    assert dropped(found) == [("missing_column", "no column text; columns: name")]
    assert [reason for reason, _ in dropped(read("table", "a.xlsx", data[:500]))] == ["broken_table"]
    assert [reason for reason, _ in dropped(read("table", "a.xlsx", b"PK\x03\x04"))] == ["broken_table"]


def test_a_cell_at_the_end_of_a_sheet_takes_no_memory():
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet["A1"], sheet["XFD5000"] = "text", "far"
    stream = io.BytesIO()
    book.save(stream)
    tracemalloc.start()
    assert texts(read("table", "a.xlsx", stream.getvalue())) == []
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


STORIES = [f"Story {n}.\n\n{SENTENCE}\n\nIt has a second paragraph." for n in range(537)]


@pytest.mark.parametrize(
    "between", ["\n<|endoftext|>\n", "<|endoftext|>", "\r\n<|endoftext|>\r\n", "<|end_of_text|>\n"]
)
def test_stories_parted_by_a_token(between: str):
    found = read("text", "stories.txt", between.join(STORIES))
    assert [text.strip() for text in texts(found)] == STORIES
    assert len({each.id for each in found}) == 537
    assert detect_kind("stories.txt", between.join(STORIES).encode()[: 1 << 16], 10**6) == "text"


def test_delimiters_of_text_files():
    assert len(texts(read("text", "a.txt", "\n-----\n".join(STORIES), delimiter="\n-----\n"))) == 537
    assert len(texts(read("markdown", "a.md", "<|endoftext|>\n".join(STORIES)))) == 537
    said = f"The token `<|endoftext|>` ends a text; '<|endoftext|>' or <|endoftext|> does not. {SENTENCE}"
    assert texts(read("text", "a.txt", said)) == [said]
    long = "a word " * (PART_BYTES // 2) + "."
    found = texts(read("text", "a.txt", f"First<|endoftext|>{long}<|endoftext|>Last"))
    assert (found[0], found[-1]) == ("First", "Last")
    assert "".join(found[1:-1]) == long


def test_texts_that_spell_control_tokens_are_a_warning():
    stats = FilterStats()
    for text in ["A <|im_start|> b", "if a <| b |> c"] * 10:
        stats.add_control_tokens(text)
    [warning] = [line for line in stats.describe("chats") if line.startswith("warning")]
    assert warning.startswith("warning: chats: the text spells <|im_start|> 10 times")
    assert table.find_delimiter("a b c\n1 2 3\n", "text") == ","
