"""Token shards read by other trainers: Megatron-LM with its reader, nanoGPT and OLMo by their documented layouts."""

from pathlib import Path

import numpy as np
import pytest

from groundup.tokenizer import TokenShard
from groundup.tokenizer.token_shards import ShardWriter

END = 0


@pytest.fixture(params=[50_000, 128_000], ids=["uint16", "uint32"])
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> TokenShard:
    """300 documents of 1 to 90 tokens, each with its end of text behind it."""
    random = np.random.default_rng(1)
    lengths = random.integers(1, 90, 300)
    ids = random.integers(1, request.param, lengths.sum())
    ids[np.cumsum(lengths) - 1] = END
    with ShardWriter(tmp_path, "train", vocab_size=request.param, tokenizer="t", end_of_text=END) as writer:
        writer.append(ids, lengths, ["web"] * 300, lengths.tolist())
        writer.commit(1)
        writer.finish()
    return TokenShard(tmp_path / "train")


def test_nanogpt_reads_windows_of_the_bin_file(shard: TokenShard):
    # nanoGPT, train.py, get_batch: a memory map without a head, windows of it, the targets one place further
    data = np.memmap(f"{shard.base}.bin", dtype=np.dtype(shard.dtype), mode="r")
    assert len(data) == shard.num_tokens
    for begin in (0, 17, len(data) - 65):
        x, y = (data[begin + shift : begin + shift + 64].astype(np.int64) for shift in (0, 1))
        assert np.array_equal(x, shard.tokens[begin : begin + 64])
        assert np.array_equal(x[1:], y[:-1])


def test_olmo_reads_ranges_of_bytes_and_finds_the_documents_by_their_ends(shard: TokenShard):
    # OLMo-core, data/utils.py: the number of tokens is the file's size over the item's, a range of bytes is a window
    # (load_array_slice), and documents end at the end of text (iter_document_indices)
    size = np.dtype(shard.dtype).itemsize
    data = Path(f"{shard.base}.bin").read_bytes()
    assert len(data) // size == shard.num_tokens
    window = np.frombuffer(data[100 * size : 164 * size], dtype=shard.dtype)
    assert np.array_equal(window, shard.tokens[100:164])
    ends = np.flatnonzero(np.frombuffer(data, dtype=shard.dtype) == END) + 1
    assert [0, *ends.tolist()] == shard.document_offsets.tolist()


@pytest.mark.interop
def test_megatron_reads_every_document_and_writes_the_same_files(shard: TokenShard, tmp_path: Path):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    dataset = indexed_dataset.IndexedDataset(shard.base, mmap=True)
    assert len(dataset) == shard.num_documents
    assert dataset.document_indices.tolist() == list(range(shard.num_documents + 1))
    for index in range(shard.num_documents):
        assert np.array_equal(dataset[index], shard.document(index))
    longest = int(np.argmax(shard.document_lengths))
    assert np.array_equal(dataset.get(longest, offset=3, length=20), shard.document(longest)[3:23])

    dtype = np.uint16 if shard.dtype == "uint16" else np.int32
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "megatron.bin"), dtype=dtype)
    for index in range(shard.num_documents):
        document = shard.document(index).astype(dtype)
        builder.add_document(document, [len(document)])
    builder.finalize(str(tmp_path / "megatron.idx"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"megatron{suffix}").read_bytes() == Path(shard.base + suffix).read_bytes()
