"""Token shards: encoded documents on disk, written sequentially, read by memory map.

    train.bin   the ids of all documents, concatenated: little-endian uint16, or uint32 above 65,536 entries
    train.idx   positions of the documents, as in Megatron-LM's IndexedDataset (megatron/core/datasets/indexed_dataset.py)
    train.src   source index of each document, little-endian uint16
    train.json  sidecar: counts, dtype, bytes of text, sources, fingerprint of the tokenizer

nanoGPT-like readers map train.bin alone; Megatron reads .bin and .idx; this one requires all four to be consistent.
"""

import bisect
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.artifacts.directory import commit_file, write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine, default_cache
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer.range_cache import RangeCachedFile, is_remote, read_remote_file

FORMAT = "groundup-tokens"
VERSION = 1
MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_CODES = {"uint16": 8, "uint32": 4}
"""Megatron has no uint32; its int32 has the same bytes for ids below 2**31."""

INDEX_CHECK_DOCUMENTS = 1 << 20
"""Documents whose index entries are checked at a time."""

LITTLE_ENDIAN = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def dtype_for(vocab_size: int) -> str:
    """The name of the smallest dtype that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class ShardWriter:
    """Writes one split, and resumes after a kill.

    `append` adds documents; `commit(done)` makes them durable, with the number of inputs that they come from. The next
    writer drops what was appended after the last commit, and reads `done`.
    """

    def __init__(self, folder: Path, split: str, *, vocab_size: int, tokenizer: str, end_of_text: int):
        self._base = folder / split
        self._journal = folder / f".{split}.journal"
        self._identity = {
            "dtype": dtype_for(vocab_size),
            "vocab_size": vocab_size,
            "tokenizer": tokenizer,
            "end_of_text": end_of_text,
        }
        state = json.loads(self._journal.read_text()) if self._journal.exists() else {}
        if state.get("identity") != self._identity:
            state = {"done": 0, "tokens": 0, "documents": 0, "sources": {}}
        self.done: int = state["done"]
        self._tokens: int = state["tokens"]
        self._documents: int = state["documents"]
        self._sources: dict[str, dict[str, int]] = state["sources"]
        self._source_ids = {name: number for number, name in enumerate(self._sources)}
        self._dtype = LITTLE_ENDIAN[self._identity["dtype"]]
        self._bin = _open_truncated(self._base.with_suffix(".bin"), self._tokens * self._dtype.itemsize)
        self._lengths = _open_truncated(self._base.with_suffix(".lengths"), self._documents * 4)
        self._src = _open_truncated(self._base.with_suffix(".src"), self._documents * 2)

    def append(
        self, ids: np.ndarray, lengths: Sequence[int] | np.ndarray, sources: Sequence[str], sizes: Sequence[int]
    ) -> None:
        """Add documents: their concatenated ids, and for each its number of tokens, its source and its bytes of text."""
        lengths = np.asarray(lengths, dtype="<i4")
        assert len(lengths) == len(sources) == len(sizes)
        assert int(lengths.sum()) == len(ids)
        numbers = np.empty(len(sources), dtype="<u2")
        for index, (source, tokens, size) in enumerate(zip(sources, lengths.tolist(), sizes, strict=True)):
            numbers[index] = self._source_ids.setdefault(source, len(self._source_ids))
            counts = self._sources.setdefault(source, {"documents": 0, "tokens": 0, "bytes": 0})
            counts["documents"] += 1
            counts["tokens"] += tokens
            counts["bytes"] += size
        self._bin.write(np.ascontiguousarray(ids, dtype=self._dtype).data)
        self._lengths.write(lengths.data)
        self._src.write(numbers.data)
        self._tokens += len(ids)
        self._documents += len(lengths)

    def commit(self, done: int) -> None:
        """Flush everything appended so far to disk."""
        for file in (self._bin, self._lengths, self._src):
            file.flush()
            os.fsync(file.fileno())
        self.done = done
        state = {
            "identity": self._identity, "done": done, "tokens": self._tokens, "documents": self._documents,
            "sources": self._sources,
        }  # fmt: skip
        write_atomically(self._journal, json.dumps(state).encode())

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._bin, self._lengths, self._src):
            file.close()

    def finish(self) -> dict[str, Any]:
        """Write the index and the sidecar; returns the sidecar."""
        self.__exit__()
        lengths = np.fromfile(self._base.with_suffix(".lengths"), dtype="<i4")
        _write_index(self._base.with_suffix(".idx"), lengths, self._identity["dtype"])
        sidecar = {
            "format": FORMAT,
            "version": VERSION,
            **self._identity,
            "tokens": self._tokens,
            "documents": self._documents,
            "bytes": sum(counts["bytes"] for counts in self._sources.values()),
            "sources": self._sources,
        }
        write_atomically(
            self._base.with_suffix(".json"), (json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n").encode()
        )
        is_complete(self._base.parent, self._base.name)
        return sidecar


def is_complete(folder: Path, split: str) -> bool:
    """Does the shard have a sidecar, which is written last? Removes the temporary files of the writer if so."""
    if not (folder / f"{split}.json").exists():
        return False
    for name in (f"{split}.lengths", f".{split}.journal"):
        (folder / name).unlink(missing_ok=True)
    return True


class TokenShard:
    """One split of tokens, memory-mapped.

    >>> shard = TokenShard("runs/small/03-tokens/train")
    >>> shard.tokens[:10], shard.document(0), shard.num_documents

    Args:
        base: path without suffix; or a URL such as s3://corpus/tokens/train, whose tokens are downloaded in ranges on
            demand and cached in `cache`.

    Attributes:
        document_lengths: tokens of each document, its end of text included (num_documents,).
        document_sources: index in `sources` of each document (num_documents,).
        sources: name -> {"documents", "tokens", "bytes"}.
        sidecar: content of the .json file.
        bytes: UTF-8 bytes of the encoded text; ends of text have none.

    Raises UserError when a file is missing or the four are inconsistent.
    """

    def __init__(self, base: Path | str, cache: Path | None = None):
        self.base = str(base).removesuffix(".bin").removesuffix(".idx").removesuffix(".json")
        self.sidecar = self._sidecar_text()
        sidecar = _parse_sidecar(self.sidecar, f"{self.base}.json")
        self.dtype: str = sidecar["dtype"]
        self.num_tokens: int = sidecar["tokens"]
        self.num_documents: int = sidecar["documents"]
        self.bytes: int = sidecar["bytes"]
        self.vocab_size: int = sidecar["vocab_size"]
        self.end_of_text: int = sidecar["end_of_text"]
        self.tokenizer: str = sidecar["tokenizer"]
        self.sources: dict[str, dict[str, int]] = sidecar["sources"]
        self._remote: RangeCachedFile | None = None
        self._folder = Path(self.base).parent
        if is_remote(self.base):
            key = hashlib.sha256(self.base.encode() + self.sidecar).hexdigest()[:16]
            self._folder = (cache or default_cache()) / "tokens" / key
        self._token_bytes = LITTLE_ENDIAN[self.dtype].itemsize
        tokens = self._map(".bin", LITTLE_ENDIAN[self.dtype], self.num_tokens)
        self._token_array = np.asarray(tokens)  # slicing an array costs a tenth of slicing a memmap
        self.document_sources = self._map(".src", np.dtype("<u2"), self.num_documents)
        self.document_lengths, self._pointers = self._index()
        self._check_sources()

    def __repr__(self) -> str:
        return f"TokenShard({self.base!r}, {self.num_tokens:,} tokens, {self.num_documents:,} documents)"

    def __len__(self) -> int:
        return self.num_tokens

    @property
    def tokens(self) -> np.ndarray:
        """All ids, read-only (num_tokens,). Downloads all of a remote shard."""
        self.fetch([(0, self.num_tokens)])
        return self._token_array

    @property
    def document_offsets(self) -> np.ndarray:
        """Offset of each document in `tokens`, then num_tokens (num_documents + 1,). Computed at each access."""
        return np.append(self._pointers // self._token_bytes, self.num_tokens)

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Download these ranges of tokens [begin, end) of a remote shard, in one batch.

        For a local shard, check the size of its file, because reading a map beyond the end of its file kills the process.
        Raises UserError when the file is missing or truncated.
        """
        if self._remote is not None:
            size = self._token_bytes
            self._remote.fetch((begin * size, end * size) for begin, end in ranges)
        else:
            self._file(".bin", self.num_tokens * self._token_bytes)

    def read(self, begin: int, end: int) -> np.ndarray:
        """The ids from `begin` to `end`; call `fetch` first."""
        return self._token_array[begin:end]

    def document(self, index: int) -> np.ndarray:
        """The ids of one document, its end of text included."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        begin = int(self._pointers[index]) // self._token_bytes
        end = begin + int(self.document_lengths[index])
        self.fetch([(begin, end)])
        return self.read(begin, end)

    def documents_in_range(self, begin: int, end: int) -> tuple[slice, np.ndarray]:
        """The indices of the documents that overlap tokens[begin:end], and the number of tokens of each in it."""
        size = self._token_bytes
        first = bisect.bisect_right(self._pointers, begin * size) - 1  # np.searchsorted would copy the index
        last = bisect.bisect_left(self._pointers, end * size, lo=first)
        edges = np.append(self._pointers[first:last] // size, end)
        edges[0] = begin
        return slice(first, last), np.diff(edges)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises UserError when the ids are not those of `tokenizer`."""
        if tokenizer.fingerprint != self.tokenizer:
            raise UserError(
                f"{self.base}: encoded by tokenizer {self.tokenizer[:12]}, expected {tokenizer.fingerprint[:12]}",
                hint="encode the text again: groundup run RECIPE --from tokens",
            )

    def _sidecar_text(self) -> bytes:
        path = f"{self.base}.json"
        if is_remote(path):
            return read_remote_file(path)
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file", hint="a token shard consists of .bin, .idx, .src and .json")
        return Path(path).read_bytes()

    def _file(self, suffix: str, size: int) -> Path:
        """A local file of the shard. Raises UserError when it is not `size` bytes long."""
        path = self._folder / (self.base.rpartition("/")[2] + suffix)
        if is_remote(self.base):
            file = RangeCachedFile(self.base + suffix, path, size)
            if suffix == ".bin":
                self._remote = file
            else:
                file.fetch([(0, size)])
            return path
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        if found != f"{size} bytes":
            raise UserError(
                f"{path}: {found}, expected {size} by {Path(self.base).name}.json",
                hint="copy all four files of the shard, or check the run: groundup verify RUN",
            )
        return path

    def _map(self, suffix: str, dtype: np.dtype, count: int) -> np.ndarray:
        path = self._file(suffix, count * dtype.itemsize)
        return np.memmap(path, dtype=dtype, mode="r") if count else np.empty(0, dtype)

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Lengths in tokens and offsets in bytes, mapped; checked in chunks to limit memory."""
        path = self._file(".idx", _index_size(self.num_documents))
        header = _index_header(self.num_documents, self.dtype)
        data = np.memmap(path, np.uint8, "r")
        if data[: len(header)].tobytes() != header:
            raise UserError(
                f"{self.base}.idx: the header does not match {self.num_documents} documents of {self.dtype}",
                hint="groundup verify RUN",
            )
        middle, end = len(header) + 4 * self.num_documents, len(header) + 12 * self.num_documents
        lengths, pointers = data[len(header) : middle].view("<i4"), data[middle:end].view("<i8")
        total = 0
        for first in range(0, self.num_documents, INDEX_CHECK_DOCUMENTS):
            chunk = lengths[first : first + INDEX_CHECK_DOCUMENTS].astype(np.int64)
            ends = total + np.cumsum(chunk)
            begins = (ends - chunk) * self._token_bytes
            if chunk.min() < 0 or not np.array_equal(begins, pointers[first : first + INDEX_CHECK_DOCUMENTS]):
                raise UserError(f"{self.base}.idx: the documents are not contiguous", hint="groundup verify RUN")
            total = int(ends[-1])
        if total != self.num_tokens:
            raise UserError(
                f"{self.base}.idx: {total} tokens, expected {self.num_tokens} by the sidecar",
                hint="groundup verify RUN",
            )
        return lengths, pointers

    def _check_sources(self) -> None:
        counts = np.zeros(1 << 16, np.int64)
        for first in range(0, self.num_documents, INDEX_CHECK_DOCUMENTS):
            counts += np.bincount(self.document_sources[first : first + INDEX_CHECK_DOCUMENTS], minlength=1 << 16)
        expected = [source["documents"] for source in self.sources.values()]
        actual = counts[: max(len(expected), *np.flatnonzero(counts) + 1, 0)].tolist()
        if actual != expected:
            raise UserError(
                f"{self.base}.src: documents of each source {actual}, expected {expected} by the sidecar",
                hint="groundup verify RUN",
            )


def hash_shards(section: TrainConfig, machine: Machine) -> dict[str, Any]:
    """SHA-256 of the sidecar of each split of `train.token_shards`. Raises UserError when one does not exist."""
    if section.token_shards is None:
        return {}
    named = (TokenShard(f"{section.token_shards}/{split}", machine.cache_dir) for split in ("train", "validation"))
    return {shard.base: hashlib.sha256(shard.sidecar).hexdigest() for shard in named}


def _parse_sidecar(text: bytes, path: str) -> dict[str, Any]:
    try:
        sidecar = json.loads(text)
        found = sidecar.get("format"), sidecar.get("version")
        counts = [sidecar["tokens"], sidecar["documents"], sidecar["bytes"]]
        counts += [source["documents"] for source in sidecar["sources"].values()]
        valid = (
            sidecar["dtype"] in LITTLE_ENDIAN
            and min(counts) >= 0
            and bool(sidecar["tokenizer"])
            and 0 <= sidecar["end_of_text"] < sidecar["vocab_size"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not the sidecar of a token shard ({error!r})", hint="groundup verify RUN") from None
    if found != (FORMAT, VERSION) or not valid:
        raise UserError(
            f"{path}: format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {VERSION}",
            hint="encode the text again",
        )
    return sidecar


def _index_header(documents: int, dtype: str) -> bytes:
    return MAGIC + struct.pack("<QBQQ", 1, MEGATRON_CODES[dtype], documents, documents + 1)


def _index_size(documents: int) -> int:
    return len(MAGIC) + 25 + 4 * documents + 8 * documents + 8 * (documents + 1)


def _write_index(path: Path, lengths: np.ndarray, dtype: str) -> None:
    """Header, lengths (int32), byte offsets (int64), document boundaries (int64)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    pointers = (ends - lengths) * LITTLE_ENDIAN[dtype].itemsize
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(_index_header(len(lengths), dtype))
        file.write(lengths.astype("<i4").tobytes())
        file.write(pointers.astype("<i8").tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
    commit_file(temporary, path)


def _open_truncated(path: Path, size: int) -> Any:
    """Open for writing at `size`, which the file is truncated to."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file
