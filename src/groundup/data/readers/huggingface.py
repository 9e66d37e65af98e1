"""Hugging Face dataset folders: tables, of which only the training split is read."""

import re
from collections.abc import Iterator
from typing import IO

from groundup.data.document import DroppedDocument, ReadResult
from groundup.data.readers import table
from groundup.data.readers.reader_options import ReaderOptions

EVALUATION_SPLIT = re.compile(
    r"(?:^|[/_.-])(?:test|testing|valid|validation|dev|eval|evaluation)(?:[/_.-]|$)", re.IGNORECASE
)
"""How the Hub recognizes splits in names: https://huggingface.co/docs/hub/datasets-file-names-and-splits."""

SUFFIXES = (".parquet", ".arrow", ".csv", ".tsv", ".xlsx", ".gz", *(f".{suffix}" for suffix in table.JSON_SUFFIXES))


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """The rows of a training file; files of other splits are dropped as "evaluation_split"."""
    if not EVALUATION_SPLIT.search(name):
        yield from table.read(name, stream, options)
    elif name.lower().endswith(SUFFIXES):
        yield DroppedDocument("evaluation_split", name)
