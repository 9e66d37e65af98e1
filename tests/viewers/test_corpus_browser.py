"""Looking at a corpus: what passes the filters, what the keys do, and that foreign text is shown and never obeyed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.viewers import corpus_render
from groundup.viewers.corpus_browser import ENTRY_KINDS, Corpus, CorpusEntry, EntryFilters
from groundup.viewers.corpus_pager import HELP, KEYS, Pager

HOSTILE = "\x1b]0;owned\x07 bell \x1b[2J \u202eevil\u202c [bold]markup[/] \x9b31m"


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"text": f"Document {n}, write to <email>.", "source": "web" if n % 2 else "books", "id": f"d{n}"}
        for n in range(40)
    ]
    for split, part in (("train", rows[:36]), ("validation", rows[36:])):
        (tmp_path / split).mkdir()
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(part), tmp_path / split / "00000.parquet", row_group_size=9
        )
    lines(
        tmp_path / "dropped" / "web.jsonl",
        [
            {"reason": "language: la", "id": "x1", "text": "Gallia est omnis divisa"},
            {"reason": "gopher_quality: few_words", "id": HOSTILE, "text": HOSTILE},
        ],
    )
    lines(
        tmp_path / "changed" / "web.jsonl",
        [
            {"rule": "c4_lines", "id": "c1", "before": "keep\ncookies\nend", "after": "keep\nend"},
            {"rule": "pii", "id": "c2", "after": "call <phone>"},
        ],
    )
    members = [{"source": "web", "id": f"m{n}", "text": f"the same {n}"} for n in range(3)]
    lines(tmp_path / "clusters.jsonl", [{"size": 7, "members": members}])
    lines(tmp_path / "contaminated.jsonl", [{"source": "web", "id": "x9", "item": "quiz/3"}])
    return tmp_path


def ids(folder: Path, kind: str, **filters: Any) -> list[str]:
    return [entry.id for entry in Corpus.open(folder).entries(kind, EntryFilters(**filters))]


def test_entry_filters(folder: Path) -> None:
    assert ids(folder, "kept") == [f"d{n}" for n in range(40)]
    assert ids(folder, "kept", split="validation") == ["d36", "d37", "d38", "d39"]
    assert ids(folder, "kept", source="web", search="DOCUMENT 1,") == ["d1"]
    assert ids(folder, "dropped", reason="language") == ["x1"]
    assert ids(folder, "dropped", reason="few words") == [HOSTILE]
    assert ids(folder, "changed", reason="c4_lines") == ["c1"]
    assert ids(folder, "duplicates", search="same 2") == ["m0"]
    assert ids(folder, "contaminated") == ["x9"]
    assert ids(folder, "dropped", source="books") == []


def test_seed_changes_the_order_only(folder: Path) -> None:
    first, again, other = (ids(folder, "kept", seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other) == sorted(ids(folder, "kept"))
    assert first != ids(folder, "kept")


def test_open_a_run_a_data_folder_and_a_plain_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / "01-data").symlink_to(folder)
    assert ids(run, "kept") == ids(folder, "kept")
    with pytest.raises(UserError, match="no 01-data/"):
        Corpus.open(tmp_path_factory.mktemp("empty"))


def test_unreadable_corpus_is_a_user_error(folder: Path) -> None:
    (folder / "dropped" / "web.jsonl").write_text('{"reason"')
    with pytest.raises(UserError, match="line 1: damaged or cut off"):
        ids(folder, "dropped")
    (folder / "train" / "00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable parquet"):
        ids(folder, "kept")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), folder / "train" / "00000.parquet")
    with pytest.raises(UserError, match="no column `text`"):
        ids(folder, "kept")


def screen(pager: Pager, width: int = 100, height: int = 24) -> str:
    found = pager.lines(Console(width=width), width, height)
    assert len(found) == height
    return "\n".join(line.plain for line in found)


def test_pager_keys(folder: Path) -> None:
    pager = Pager(Corpus.open(folder), "kept", EntryFilters())
    assert "Document 0," in screen(pager)
    pager.press("next")
    assert "Document 1," in screen(pager)
    pager.press("back")
    pager.press("back")
    assert "Document 0," in screen(pager)
    pager.press("source")
    assert pager.filters.source == "web"  # no manifest: the sources are those with examples, then all of them
    pager.press("source")
    assert pager.filters.source is None
    pager.press("search")
    for key in b"nment 3x\x7f9":
        pager.type_search(bytes([key]))
    assert "search:" in screen(pager)
    pager.type_search(b"\r")
    assert "No kept documents with text 'nment 39'" in screen(pager)
    pager.press("leave")
    assert "Document 0," in screen(pager)
    pager.press("kind")
    assert "1 of 2" in screen(pager)
    pager.press("reason")
    assert pager.filters.reason == "gopher_quality: few_words"
    pager.press("kind")
    assert pager.filters.reason is None
    text = screen(pager)
    assert "− cookies" in text
    assert "  keep" in text
    pager.press("next")
    assert "is not stored" in screen(pager)
    pager.press("kind")
    assert "7 duplicates" in screen(pager)
    assert "the same 2" in screen(pager)
    pager.press("help")
    assert HELP.splitlines()[0] in screen(pager)
    pager.press("next")
    pager.press("quit")
    assert pager.done
    assert {"next", "back", "kind", "reason", "source", "search", "overview", "help", "quit"} <= set(KEYS.values())


def test_scrolling_stops_at_the_end(folder: Path) -> None:
    pager = Pager(Corpus.open(folder), "dropped", EntryFilters())
    lines(folder / "dropped" / "web.jsonl", [{"reason": "r", "id": "x", "text": "\n".join(map(str, range(200)))}])
    assert "\n 0\n" in screen(pager).replace(" \n", "\n") or " 0" in screen(pager)
    pager.press("end")
    assert " 199" in screen(pager)
    pager.press("page down")
    assert " 199" in screen(pager)
    pager.press("top")
    assert " 199" not in screen(pager)


@pytest.mark.parametrize("kind", ENTRY_KINDS)
def test_control_characters_are_replaced(folder: Path, kind: str) -> None:
    lines(folder / "changed" / "web.jsonl", [{"rule": HOSTILE, "id": HOSTILE, "before": HOSTILE, "after": ""}])
    lines(folder / "contaminated.jsonl", [{"source": HOSTILE, "id": HOSTILE, "item": HOSTILE}])
    members = [{"source": HOSTILE, "id": HOSTILE, "text": HOSTILE}] * 2
    lines(folder / "clusters.jsonl", [{"size": 2, "members": members}])
    console = Console(record=True, width=80)
    for entry in Corpus.open(folder).entries(kind, EntryFilters()):
        shown = corpus_render.entry_title(entry).plain + corpus_render.entry_text(entry, (), "bell").plain
        assert not [c for c in shown if (ord(c) < 32 and c != "\n") or c in "\x7f\x9b\u202e\u202c"]
        if kind in ("dropped", "duplicates") and "markup" in entry.text:
            assert "[bold]markup[/]" in shown
    corpus_render.print_entries(Corpus.open(folder), [kind], EntryFilters(), 0, console)
    assert "\x1b" not in console.export_text(styles=False)


def test_tokens_of_personal_data_are_those_of_the_recipe(folder: Path) -> None:
    assert "<email>" in Corpus.open(folder).pii_tokens
    Manifest("data", 1, "0", sections={"data": {"pii": {"tokens": {"email": "[mail]", "phone": ""}}}}).write(folder)
    corpus = Corpus.open(folder)
    entry = CorpusEntry("kept", "web", "1", "Write to [mail] or <email>, or call <ip>.")
    styled = [
        span for span in corpus_render.entry_text(entry, corpus.pii_tokens).spans if span.style == corpus_render.WARN
    ]
    assert [entry.text[span.start : span.end] for span in styled] == ["[mail]", "<ip>"]
    assert corpus_render.entry_stats(entry, corpus.pii_tokens).endswith("1 [mail] · 1 <ip>")


def test_inspect_on_a_terminal(folder: Path, in_terminal) -> None:
    drawn, code = in_terminal(["inspect", str(folder)], [b"n", b"\t", b"q"])
    assert code == 0, drawn
    assert "Document 1," in drawn
    assert "Gallia est omnis" in drawn
    assert drawn.rstrip().endswith("\x1b[?1049l")


def test_inspect_in_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "groundup.cli", "inspect", str(folder)]
    plain = subprocess.run([*command, "--limit", "2"], capture_output=True, text=True, check=True).stdout
    assert "── kept  books  train  d0" in plain
    assert "── dropped  web  language: la  x1" in plain
    assert "\x1b" not in plain
    rows = subprocess.run([*command, "--json", "--limit", "0"], capture_output=True, text=True, check=True).stdout
    found = [json.loads(row) for row in rows.splitlines()]
    assert [row["kind"] for row in found].count("kept") == 40
    assert {row["kind"] for row in found} == set(ENTRY_KINDS)
    wrong = subprocess.run([*command, "--show", "lost"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "kept, dropped" in wrong.stderr


def test_mixture_table(folder: Path) -> None:
    corpus = Corpus.open(folder)
    counts = {"documents": 1_000, "bytes": 4_000_000}
    row = {"read": counts, "kept": counts, "dropped": {}, "train": {"documents": 1_500, "bytes": 6_000_000}}
    row |= {"tokens_estimated": 1_500_000, "byte_fraction": 0.75, "epochs": 1.5}
    corpus.metrics = {"sources": {"books": row, "web": {**row, "byte_fraction": 0.25}}}
    text = corpus_render.overview(corpus).plain
    mix = text[text.index("training mixture") :].splitlines()
    assert mix[2].split() == ["books", "1,500", "1,500,000", "75.0%", "1.50"]
    assert mix[4].split() == ["3,000", "3,000,000"]
