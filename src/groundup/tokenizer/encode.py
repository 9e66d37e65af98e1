"""Text to token shards: every document's ids and then the end of text, in the order of the data artifact."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.tokenizer import corpus
from groundup.tokenizer.bulk import BulkEncoder
from groundup.tokenizer.shards import ShardWriter
from groundup.tokenizer.tokenizer import Tokenizer

BATCH_BYTES = 4_000_000
"""Text that is encoded in one go, unless one document is longer."""

WORTH_A_PROCESS = 64_000_000
"""Bytes of parquet below which starting another process takes longer than it saves."""

Ids = tuple[np.ndarray, np.ndarray]
Item, Result = TypeVar("Item"), TypeVar("Result")


def encode_split(folder: Path, data: Path, split: str, out: Path, machine: Machine) -> dict[str, Any]:
    """Write `out`/`split`.bin and what belongs to it, with the tokenizer in `folder`; returns the sidecar.

    Continues after the last parquet file that a killed process finished, to the same bytes.
    Raises UserError when the tokenizer has no end of text.
    """
    tokenizer = Tokenizer.load(folder)
    if tokenizer.eos_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no end of text", hint="name its eos_token in tokenizer_config.json"
        )
    files = corpus.files(data, split)
    counts = [corpus.count(path) for path in files]
    workers = min(machine.threads, sum(path.stat().st_size for path in files) // WORTH_A_PROCESS)
    with (
        ShardWriter(
            out,
            split,
            vocab_size=tokenizer.vocab_size,
            tokenizer=tokenizer.fingerprint,
            end_of_text=tokenizer.eos_id,
        ) as writer,
        machine.progress.task(f"encoding {split}", total=sum(counts), unit="documents") as task,
        _encoder(folder, workers) as encoded,
    ):
        task.start_at(sum(counts[: writer.done]))
        batches = (
            (number, batch)
            for number in range(writer.done, len(files))
            for batch in (*corpus.batches(files[number], BATCH_BYTES), None)
        )
        for (number, batch), result in encoded(batches):
            if batch is None:
                writer.commit(number + 1)
            else:
                ids, lengths = result
                writer.append(ids, lengths, batch.sources, batch.sizes)
                task.advance(len(batch.texts))
        return writer.finish()


@contextmanager
def _encoder(folder: Path, processes: int) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Encodes (number, documents) after (number, documents), in order; in other processes when there are several."""
    if processes < 2:
        encode = BulkEncoder(Tokenizer.load(folder)).encode
        yield lambda batches: ((item, item[1] and encode(item[1].texts)) for item in batches)
        return
    # A new interpreter for each, because a fork would copy the locks that other threads of this one hold.
    with ProcessPoolExecutor(processes, get_context("spawn"), _open_encoder, (folder,)) as pool:

        def encoded(batches: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[tuple[Any, Future | None]] = deque()
            for item in batches:
                waiting.append((item, pool.submit(_encode, item[1].texts) if item[1] else None))
                if len(waiting) > 2 * processes:
                    first, future = waiting.popleft()
                    yield first, future and future.result()
            for first, future in waiting:
                yield first, future and future.result()

        yield encoded


_in_this_process: list[BulkEncoder] = []


def _open_encoder(folder: Path) -> None:
    _in_this_process.append(BulkEncoder(Tokenizer.load(folder)))


def _encode(texts: list[str]) -> Ids:
    return _in_this_process[0].encode(texts)
