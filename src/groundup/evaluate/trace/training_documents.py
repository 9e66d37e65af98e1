"""Documents of the training shard: source, id and license from the corpus that it was encoded from, and text around a span."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from groundup.tokenizer import Tokenizer, TokenShard


@dataclass(frozen=True)
class TrainingDocument:
    """Number in the shard, and where it comes from; `license` is "" where it is not known, `id` where the corpus is gone."""

    number: int
    source: str
    id: str
    license: str


class TrainingDocuments:
    """The documents of a shard.

    Args:
        data: the data artifact that the shard was encoded from, in the same order; None if there is none.
    """

    def __init__(self, shard: TokenShard, tokenizer: Tokenizer, data: Path | None):
        self.shard, self.tokenizer = shard, tokenizer
        self._sources = list(shard.sources)
        self._offsets = shard.document_offsets
        self._files: list[Path] = []
        self._ends: list[int] = []
        if data is not None:
            from groundup.tokenizer.parquet_documents import count_documents, parquet_files  # optional dependency

            files = parquet_files(data, "train")
            ends = list(accumulate(map(count_documents, files)))
            if ends and ends[-1] == shard.num_documents:
                self._files, self._ends = files, ends
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def at(self, position: int) -> TrainingDocument:
        """The document that holds the token at `position`."""
        return self.get(self.shard.documents_in_range(position, position + 1)[0].start)

    def get(self, number: int) -> TrainingDocument:
        """The document with this number in the shard."""
        row = self._row(number)
        source = self._sources[int(self.shard.document_sources[number])]
        return TrainingDocument(number, source, row.get("id") or "", row.get("license") or "")

    def around(self, position: int, length: int, context: int) -> tuple[str, str, str]:
        """The text before `length` tokens at `position`, their text, and the text after; `context` tokens on either side, of the
        same document.
        """
        number = self.shard.documents_in_range(position, position + 1)[0].start
        begin = int(self._offsets[number])
        end = begin + int(self.shard.document_lengths[number]) - 1  # without its end of text
        first, last = max(begin, position - context), min(end, position + length + context)
        decode = self.tokenizer.decode
        read = self.shard.read
        return (
            decode(read(first, position).tolist()),
            decode(read(position, position + length).tolist()),
            decode(read(position + length, last).tolist()),
        )

    def _row(self, number: int) -> dict[str, Any]:
        if not self._files:
            return {}
        index = bisect_right(self._ends, number)
        offset = number - (self._ends[index - 1] if index else 0)
        for group, first, count in _row_groups(self._files[index]):
            if offset < first + count:
                if (index, group) not in self._rows:
                    self._rows[index, group] = _read_rows(self._files[index], group)
                return self._rows[index, group][offset - first]
        return {}


def _row_groups(path: Path) -> Iterator[tuple[int, int, int]]:
    """(number, first row, rows) of each row group."""
    from groundup.data.work_files import open_parquet

    with open_parquet(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            yield group, first, count
            first += count


def _read_rows(path: Path, group: int) -> list[dict[str, Any]]:
    """id and license of the documents of a row group; corpora from elsewhere may lack them."""
    from groundup.data.work_files import open_parquet

    with open_parquet(path) as file:
        columns = [name for name in ("id", "license") if name in file.schema_arrow.names]
        return file.read_row_group(group, columns=columns).to_pylist()
