"""Encode the documents of a data artifact into token shards, in order, each with the end-of-text token after it."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.tokenizer import parquet_documents
from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.token_shards import ShardWriter
from groundup.tokenizer.tokenizer import Tokenizer

BATCH_BYTES = 16_000_000
"""Bytes of text encoded at a time, unless one document is longer."""

Item = TypeVar("Item")


def encode_split(folder: Path, data: Path, split: str, out: Path, machine: Machine) -> dict[str, Any]:
    """Write the token shard `out`/`split` with the tokenizer in `folder`; returns the sidecar.

    Resumes after the last complete parquet file, to the same bytes.
    Raises UserError when the tokenizer has no eos token.
    """
    tokenizer = Tokenizer.load(folder)
    if tokenizer.eos_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no eos token", hint="name its eos_token in tokenizer_config.json"
        )
    # Read once by the encoders, for their number of threads.
    os.environ.setdefault("RAYON_NUM_THREADS", str(machine.threads))
    encoder = BatchEncoder(tokenizer)
    files = parquet_documents.parquet_files(data, split)
    counts = [parquet_documents.count_documents(path) for path in files]
    with (
        ShardWriter(
            out,
            split,
            vocab_size=tokenizer.vocab_size,
            tokenizer=tokenizer.fingerprint,
            end_of_text=tokenizer.eos_id,
        ) as writer,
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


def _prefetch(items: Iterator[Item], reader: ThreadPoolExecutor) -> Iterator[Item]:
    """Yield `items`, fetching the next one in the background."""
    future = reader.submit(next, items, None)
    while (item := future.result()) is not None:
        future = reader.submit(next, items, None)
        yield item
