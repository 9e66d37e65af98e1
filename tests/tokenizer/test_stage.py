"""The tokenizer and tokens stages: from parquet files to a tokenizer and token shards; resuming gives the same bytes."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hard_texts import PROSE

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.tokenizer import Tokenizer, TokenShard, encode_corpus, stage
from groundup.tokenizer.fertility import measure_fertility, validation_texts
from groundup.tokenizer.parquet_documents import sample_corpus
from groundup.tokenizer.tokenizer_training import train_bpe


def recipe(**knobs: Any) -> Any:
    return SimpleNamespace(tokenizer=TokenizerConfig(**{"vocab_size": 400} | knobs), seed=7)


def write_data(folder: Path, texts: list[str], files: int = 3) -> Path:
    for split, part in (("train", texts), ("validation", texts[:2])):
        (folder / split).mkdir(parents=True)
        for number in range(files if split == "train" else 1):
            rows = part[number::files] if split == "train" else part
            sources = ["web" if index % 2 else "books" for index in range(len(rows))]
            table = pyarrow.table({"text": rows, "source": sources, "id": [str(i) for i in range(len(rows))]})
            pyarrow.parquet.write_table(table, folder / split / f"{number:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [PROSE, PROSE[::-1], "", *(PROSE[begin:] * 2 for begin in range(0, 200, 7))]
    return write_data(tmp_path_factory.mktemp("data"), texts)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("tokenizer")
    return out, stage.train(recipe(), {"data": data}, out, Machine())


def run_encode(
    data: Path, trained: tuple[Path, dict[str, Any]], out: Path, machine: Machine | None = None
) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return stage.encode(recipe(), {"data": data, "tokenizer": trained[0]}, out, machine or Machine())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_train_stage(trained: tuple[Path, dict[str, Any]]):
    out, metrics = trained
    tokenizer = Tokenizer.load(out)
    assert tokenizer.vocab_size == metrics["vocab_size"] == 400
    assert metrics["special_tokens"]["<|endoftext|>"] == 0
    assert len(metrics["longest_tokens"]) == 20
    assert PROSE[::-1].startswith("".join(metrics["sample"])) or "".join(metrics["sample"]) in PROSE * 2
    json.dumps(metrics, allow_nan=False)


def test_fertility_by_source_and_language(data: Path, trained: tuple[Path, Any], tmp_path: Path):
    other = train_bpe([PROSE * 2], 300)
    texts = {
        "en": "The cat sat on the mat and the dog was there, too. " * 9,
        "de": "Der Hund und die Katze sind im Haus. " * 9,
    }
    folder = write_data(tmp_path / "data", list(texts.values()))
    found = measure_fertility({"own": Tokenizer.load(trained[0]), "other": other}, validation_texts(folder))
    assert {name: row["documents"] for name, row in found["language"].items()} == {"en": 1, "de": 1}
    assert set(found["source"]) == {"books", "web"}
    row, text = found["language"]["de"], texts["de"]
    assert (row["bytes"], row["words"]) == (len(text), 72)
    assert row["bytes_per_token"]["other"] == round(len(text) / len(other.encode(text)), 4)
    split = sum(len(other.encode(f" {word}")) > 1 for word in text.split())
    assert row["split_word_fraction"]["other"] == round(split / 72, 4)


def test_encode_stage_keeps_documents_and_sources(data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path):
    metrics = run_encode(data, trained, tmp_path)
    tokenizer, shard = Tokenizer.load(trained[0]), TokenShard(tmp_path / "train")
    shard.check_tokenizer(tokenizer)
    texts, sources = [], []
    for path in sorted((data / "train").glob("*.parquet")):
        columns = pyarrow.parquet.read_table(path).to_pydict()
        texts += columns["text"]
        sources += columns["source"]
    for index, text in enumerate(texts):
        ids = shard.document(index).tolist()
        assert ids == [*tokenizer.encode(text), tokenizer.eos_id]
    names = list(shard.sources)
    assert [names[number] for number in shard.document_sources] == sources
    assert shard.bytes == sum(len(text.encode()) for text in texts) == metrics["train"]["bytes"]
    assert metrics["train"]["sources"]["web"]["documents"] == sources.count("web")
    assert 0 <= metrics["unused_tokens"] < 400
    json.dumps(metrics, allow_nan=False)


def test_resumed_encoding_equals_straight_run(
    data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    straight = run_encode(data, trained, tmp_path / "straight")
    append = encode_corpus.ShardWriter.append
    for kill_at in (0, 1, 1):
        calls = iter(range(kill_at))

        def die(self: encode_corpus.ShardWriter, *arguments: Any, calls: Iterator[int] = calls) -> None:
            append(self, *arguments)
            if next(calls, None) is None:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(encode_corpus.ShardWriter, "append", die)
            with contextlib.suppress(KeyboardInterrupt):
                run_encode(data, trained, tmp_path / "killed")
        assert not (tmp_path / "killed" / "train.json").exists()
    assert run_encode(data, trained, tmp_path / "killed") == straight
    assert files(tmp_path / "straight") == files(tmp_path / "killed")


def test_encoding_is_independent_of_the_batch_size(
    data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_encode(data, trained, tmp_path / "one")
    monkeypatch.setattr(encode_corpus, "BATCH_BYTES", 1000)
    run_encode(data, trained, tmp_path / "two", Machine(threads=2))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_corpus_sample_is_independent_of_file_order(data: Path, tmp_path: Path):
    everything = sample_corpus(data, 10**9, seed=1)
    texts = list(everything.texts())
    assert everything.bytes == everything.corpus_bytes == sum(len(text.encode()) for text in texts)
    half = set(sample_corpus(data, everything.bytes // 2, seed=1).texts())
    assert 0 < len(half) < len(texts)
    other = write_data(tmp_path / "other", list(reversed(texts)), files=1)
    assert set(sample_corpus(other, everything.bytes // 2, seed=1).texts()) == half
    assert set(sample_corpus(data, everything.bytes // 2, seed=2).texts()) != half


def test_invalid_inputs_are_refused(data: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path):
    with pytest.raises(UserError, match="the text yields only"):
        stage.train(recipe(vocab_size=50_000), {"data": data}, tmp_path, Machine())
    with pytest.raises(UserError, match="no parquet files"):
        stage.train(recipe(), {"data": tmp_path}, tmp_path, Machine())
    empty = write_data(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no training text"):
        run_encode(empty, trained, tmp_path / "out")
    broken = write_data(tmp_path / "broken", [PROSE] * 3)
    (broken / "train" / "00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"00001\.parquet: not a readable parquet file"):
        run_encode(broken, trained, tmp_path / "out2")
    without_end = tmp_path / "no-end"
    Tokenizer(Tokenizer.load(trained[0]).backend).save(without_end)
    with pytest.raises(UserError, match="has no eos token"):
        run_encode(data, (without_end, {}), tmp_path / "out3")
