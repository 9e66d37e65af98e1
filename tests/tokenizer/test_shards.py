"""Token shards: round trip, resuming, and inconsistent files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.tokenizer import write_token_shard
from groundup.tokenizer.token_shards import ShardWriter, TokenShard, dtype_for, is_complete
from groundup.tokenizer.tokenizer import Tokenizer

Document = tuple[list[int], str]
documents = st.lists(
    st.tuples(st.lists(st.integers(0, 999), min_size=1, max_size=12), st.sampled_from(["web", "books"])), max_size=12
)


def writer(folder: Path, vocab_size: int = 1000) -> ShardWriter:
    return ShardWriter(folder, "train", vocab_size=vocab_size, tokenizer="t" * 64, end_of_text=0)


def append(target: ShardWriter, batch: list[Document]) -> None:
    ids = np.array([id for tokens, _ in batch for id in tokens], dtype=np.uint32)
    target.append(ids, [len(tokens) for tokens, _ in batch], [s for _, s in batch], [2 * len(t) for t, _ in batch])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@given(batches=st.lists(documents, max_size=4), vocab_size=st.sampled_from([1000, 70_000]))
@settings(max_examples=25, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, batches: list[list[Document]], vocab_size: int):
    folder = tmp_path_factory.mktemp("shard")
    target = writer(folder, vocab_size)
    for number, batch in enumerate(batches):
        append(target, batch)
        target.commit(number + 1)
    target.finish()
    shard = TokenShard(folder / "train")
    expected = [document for batch in batches for document in batch]
    assert [shard.document(i).tolist() for i in range(shard.num_documents)] == [tokens for tokens, _ in expected]
    names = list(shard.sources)
    assert [names[number] for number in shard.document_sources] == [source for _, source in expected]
    assert len(shard) == shard.num_tokens == sum(len(tokens) for tokens, _ in expected)
    assert shard.bytes == 2 * shard.num_tokens
    assert shard.tokens.dtype == np.dtype("<u2" if vocab_size == 1000 else "<u4")


@given(batches=st.lists(documents, min_size=1, max_size=4), data=st.data())
@settings(max_examples=25, deadline=None)
def test_resumed_writer_equals_straight_writer(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Document]], data: st.DataObject
):
    straight, killed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("killed")
    killed_after = data.draw(st.integers(0, len(batches)))
    for folder in (straight, killed):
        target = writer(folder)
        if folder == killed:
            for number in range(killed_after):
                append(target, batches[number])
                target.commit(number + 1)
            append(target, [([7, 7, 7], "junk")])  # appended but not committed
            target.__exit__()
            target = writer(folder)
        for number in range(target.done, len(batches)):
            append(target, batches[number])
            target.commit(number + 1)
        target.finish()
    assert files(straight) == files(killed)
    assert sorted(files(killed)) == ["train.bin", "train.idx", "train.json", "train.src"]


def test_temporary_files_of_a_complete_shard_are_removed(tmp_path: Path):
    target = writer(tmp_path)
    append(target, [([1, 2], "web")])
    target.commit(1)
    temporary = {name: data for name, data in files(tmp_path).items() if name in ("train.lengths", ".train.journal")}
    assert not is_complete(tmp_path, "train")
    target.finish()
    for name, data in temporary.items():
        (tmp_path / name).write_bytes(data)
    assert is_complete(tmp_path, "train")
    assert sorted(files(tmp_path)) == ["train.bin", "train.idx", "train.json", "train.src"]


def test_shard_of_another_tokenizer_is_not_resumed(tmp_path: Path):
    target = writer(tmp_path)
    append(target, [([1, 2], "web")])
    target.commit(1)
    target.__exit__()
    with writer(tmp_path) as same:
        assert same.done == 1
    with writer(tmp_path, vocab_size=70_000) as other:
        assert other.done == 0


def test_empty_shard(tmp_path: Path):
    writer(tmp_path).finish()
    assert len(TokenShard(tmp_path / "train")) == 0


@pytest.fixture
def shard_folder(tmp_path: Path) -> Path:
    target = writer(tmp_path)
    append(target, [([1, 2, 3], "web"), ([4, 5], "books")])
    target.commit(1)
    target.finish()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train.bin", lambda data: data[:-1], "9 bytes, expected 10 by train.json"),
        ("train.bin", lambda data: data + b"\0", "11 bytes"),
        ("train.src", lambda data: data[:-2], "2 bytes, expected"),
        ("train.src", lambda data: b"\0\0\0\0", "documents of each source [2, 0], expected [1, 1] by the sidecar"),
        ("train.src", lambda data: b"\0\0\7\0", "documents of each source [1, 0, 0, 0, 0, 0, 0, 1], expected"),
        ("train.idx", lambda data: data[:-8], "expected"),
        ("train.idx", lambda data: b"X" + data[1:], "the header does not match 2 documents of uint16"),
        ("train.idx", lambda data: data[:34] + b"\x09" + data[35:], "not contiguous"),
        ("train.idx", lambda data: data[:38] + b"\x09" + data[39:], "12 tokens, expected 5 by the sidecar"),
        ("train.idx", lambda data: data[:50] + b"\x04" + data[51:], "not contiguous"),
        ("train.json", lambda data: b"{", "not the sidecar"),
        ("train.json", lambda data: b"[]", "not the sidecar"),
        ("train.json", lambda data: b"\xff\xfe", "not the sidecar"),
        ("train.json", lambda data: data.replace(b"groundup-tokens", b"other"), "format 'other'"),
        ("train.json", lambda data: data.replace(b'"tokens": 5', b'"tokens": -5'), "expected"),
        ("train.json", lambda data: data.replace(b'"vocab_size": 1000', b'"vocab_size": 0'), "expected"),
    ],
)  # fmt: skip
def test_inconsistent_files_are_refused(shard_folder: Path, name: str, change, message: str):
    path = shard_folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        TokenShard(shard_folder / "train")
    assert message in caught.value.message
    assert name.split(".")[0] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["train.bin", "train.idx", "train.src", "train.json"])
def test_missing_file_is_refused(shard_folder: Path, name: str):
    os.remove(shard_folder / name)
    with pytest.raises(UserError, match="no such file"):
        TokenShard(shard_folder / "train")


def test_other_tokenizer_is_refused(shard_folder: Path, tokenizer: Tokenizer):
    with pytest.raises(UserError, match="encoded by tokenizer tttttttttttt, expected"):
        TokenShard(shard_folder / "train").check_tokenizer(tokenizer)
    sidecar = json.loads((shard_folder / "train.json").read_text()) | {"tokenizer": tokenizer.fingerprint}
    (shard_folder / "train.json").write_text(json.dumps(sidecar))
    TokenShard(shard_folder / "train").check_tokenizer(tokenizer)


def test_dtype_is_the_smallest_possible():
    assert [dtype_for(size) for size in (1, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]


def test_write_token_shard(tokenizer: Tokenizer, tmp_path: Path):
    texts = ["The first text.", "", "é 東京"]
    target = writer(tmp_path)
    append(target, [([7, 7], "interrupted")])
    target.commit(1)
    target.__exit__()
    shard = write_token_shard(tmp_path / "train", texts, tokenizer)
    shard.check_tokenizer(tokenizer)
    assert [tokenizer.decode(shard.document(i)[:-1]) for i in range(3)] == texts
    assert (shard.bytes, list(shard.sources)) == (sum(len(text.encode()) for text in texts), ["text"])
    with pytest.raises(UserError, match="has no eos token"):
        write_token_shard(tmp_path / "other", texts, Tokenizer(tokenizer.backend))
