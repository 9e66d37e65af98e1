"""Text to token shards: every document's ids and then the end of text, in the order of the data artifact."""

from pathlib import Path
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.tokenizer import corpus
from groundup.tokenizer.shards import ShardWriter
from groundup.tokenizer.tokenizer import Tokenizer


def encode_split(tokenizer: Tokenizer, data: Path, split: str, out: Path, machine: Machine) -> dict[str, Any]:
    """Write `out`/`split`.bin and what belongs to it; continues after the last finished parquet file.

    Returns the sidecar. Raises UserError when the tokenizer has no end of text.
    """
    if tokenizer.eos_id is None:
        raise UserError("the tokenizer has no end of text", hint="name it as eos_token in tokenizer_config.json")
    writer = ShardWriter(
        out, split, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint, end_of_text=tokenizer.eos_id
    )
    files = corpus.files(data, split)
    sizes = [path.stat().st_size for path in files]
    with machine.progress.task(f"encoding {split}", total=sum(sizes) / 1e6 or None, unit="MB of parquet") as task:
        task.start_at(sum(sizes[: writer.done]) / 1e6)
        for number in range(writer.done, len(files)):
            for documents in corpus.read(files[number]):
                ids, lengths = encode_documents(tokenizer, documents.texts)
                writer.append(ids, lengths, documents.sources, [len(text.encode()) for text in documents.texts])
            writer.commit(number + 1)
            task.advance(sizes[number] / 1e6)
    return writer.close()


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all texts in a row, each followed by the end of text, and how many each has."""
    rows = tokenizer.encode_batch(texts)
    lengths = np.fromiter((len(row) + 1 for row in rows), dtype=np.int64, count=len(rows))
    ids = np.empty(int(lengths.sum()), dtype=np.uint32)
    begin = 0
    for row in rows:
        ids[begin : begin + len(row)] = row
        ids[begin + len(row)] = tokenizer.eos_id
        begin += len(row) + 1
    return ids, lengths
