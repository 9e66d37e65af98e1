"""Encode the documents of a data artifact into token shards, in order, each with the end-of-text token after it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.token_shards import ShardWriter, TokenShard
from groundup.tokenizer.tokenizer import Tokenizer

BATCH_BYTES = 16_000_000
"""Bytes of text encoded at a time, unless one document is longer."""

Item = TypeVar("Item")


def encode_split(folder: Path, data: Path, split: str, out: Path, machine: Machine) -> dict[str, Any]:
    """Write the token shard `out`/`split` with the tokenizer in `folder`; returns the sidecar.

    Resumes after the last complete parquet file, to the same bytes.
    Raises UserError when the tokenizer has no eos token.
    """
    from groundup.tokenizer import parquet_documents  # needs an optional package

    tokenizer = Tokenizer.load(folder)
    # Read once by the encoders, for their number of threads.
    os.environ.setdefault("RAYON_NUM_THREADS", str(machine.threads))
    encoder = BatchEncoder(tokenizer)
    files = parquet_documents.parquet_files(data, split)
    counts = [parquet_documents.count_documents(path) for path in files]
    with (
        _shard_writer(out, split, tokenizer) as writer,
        machine.progress.task(f"encoding {split}", total=sum(counts), unit="documents") as task,
        ThreadPoolExecutor(1, "reading") as reader,
    ):
        task.resume_at(sum(counts[: writer.done]))
        for index in range(writer.done, len(files)):
            for documents in _prefetch(parquet_documents.read_batches(files[index], BATCH_BYTES), reader):
                ids, lengths = encoder.encode(documents.texts)
                writer.append(ids, lengths, documents.sources, documents.sizes)
                task.advance(len(documents.texts))
            writer.commit(index + 1)
        return writer.finish()


def write_token_shard(base: Path | str, texts: Sequence[str], tokenizer: Tokenizer, source: str = "text") -> TokenShard:
    """Encode texts into a new token shard: the files `base` + .bin, .idx, .src and .json.

    >>> shard = write_token_shard("tokens/train", texts, tokenizer)
    """
    base = Path(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    (base.parent / f".{base.name}.journal").unlink(missing_ok=True)  # of an interrupted writer
    with _shard_writer(base.parent, base.name, tokenizer) as writer:
        ids, lengths = BatchEncoder(tokenizer).encode(texts)
        writer.append(ids, lengths, [source] * len(texts), [len(text.encode()) for text in texts])
        writer.finish()
    return TokenShard(base)


def _shard_writer(folder: Path, split: str, tokenizer: Tokenizer) -> ShardWriter:
    if tokenizer.eos_id is None:
        raise UserError(
            f"{tokenizer!r} has no eos token to end documents", hint="set eos_token in tokenizer_config.json"
        )
    return ShardWriter(
        folder, split, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint, end_of_text=tokenizer.eos_id
    )


def _prefetch(items: Iterator[Item], reader: ThreadPoolExecutor) -> Iterator[Item]:
    """Yield `items`, fetching the next one in the background."""
    future = reader.submit(next, items, None)
    while (item := future.result()) is not None:
        future = reader.submit(next, items, None)
        yield item
