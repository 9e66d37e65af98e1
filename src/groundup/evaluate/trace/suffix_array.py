"""Suffix arrays of a token shard: counts and positions of any sequence of tokens (Manber & Myers 1993).

A suffix array lists the positions of a text in the order of the text that begins there. Positions of equal n-grams are
neighbours in it, so that binary search finds all of them, of any length. It takes four bytes a token on disk, beside the
shard, which it needs.

Long shards are cut into parts, each with an array of its own, so that memory is bounded while they are built. Parts end
where documents end: no span is lost. Suffixes are sorted by libdivsufsort (Mori 2008), which sorts bytes: a token is a
big-endian number of one to three bytes, of which every first byte is a position.

    suffix-array.json   the parts, and a hash of the shard; written last
    00000.sa            positions in the first part, from its beginning, little-endian int32
"""

import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundup.artifacts.directory import commit_file, write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.tokenizer import TokenShard

INDEX_FILE = "suffix-array.json"
VERSION = 1
DEFAULT_MEMORY = 2_000_000_000
"""Bytes to sort with: parts of 200 million tokens of a vocabulary of at most 65,536."""
MAX_BYTES = (1 << 31) - 1
"""Of the text of one part: libdivsufsort's positions are 32-bit."""
CHUNK = 1 << 22
"""Tokens converted at a time."""
HASHED_TOKENS = 4_096
"""Of a shard, by which an index knows it."""

Ids = NDArray[np.integer] | Sequence[int]


@dataclass(frozen=True)
class _Part:
    """Tokens begin to end of the shard; `positions` from `begin`, in the order of their suffixes."""

    begin: int
    end: int
    tokens: NDArray[np.integer]
    positions: NDArray[np.int32]


class SuffixArray:
    """The suffix arrays of a shard. Ids of queries are those of the shard's tokenizer.

    >>> index = SuffixArray.open(shard, folder, progress=Progress())
    >>> index.count(tokenizer.encode(" the sky"))
    """

    def __init__(self, shard: TokenShard, folder: Path, bounds: Sequence[tuple[int, int]]):
        self.shard = shard
        self._big_endian = np.dtype(shard.dtype).newbyteorder(">")
        tokens = shard.tokens
        self._parts = [
            _Part(begin, end, tokens[begin:end], _map_positions(folder / _part_name(number), end - begin))
            for number, (begin, end) in enumerate(bounds)
        ]

    @classmethod
    def open(
        cls, shard: TokenShard, folder: Path, *, memory: int = DEFAULT_MEMORY, progress: Progress | None = None
    ) -> "SuffixArray":
        """The index in `folder`, built there first if it is missing or of another shard; a killed build is continued.

        Args:
            memory: bytes to sort with; an existing index is used whatever it is. A longer document exceeds it.

        Raises UserError for a memory in which not even a small part can be sorted.
        """
        identity = {"version": VERSION, "shard": _shard_hash(shard)}
        path = folder / INDEX_FILE
        known = json.loads(path.read_bytes()) if path.is_file() else {}
        if {key: known.get(key) for key in identity} != identity:
            bounds = _plan_parts(shard, memory)
            _build(shard, folder, bounds, hashlib.sha256(json.dumps([identity, bounds]).encode()).hexdigest(), progress)
            write_atomically(path, json.dumps(identity | {"parts": bounds}).encode())
            known = {"parts": bounds}
        return cls(shard, folder, known["parts"])

    def count(self, ids: Ids) -> int:
        """How often the n-gram stands in the shard."""
        return sum(last - first for _, first, last in self._ranges(ids))

    def positions(self, ids: Ids, limit: int | None = None) -> list[int]:
        """Positions of the n-gram in the shard, at most `limit` of them; in no particular order."""
        found: list[int] = []
        for part, first, last in self._ranges(ids):
            taken = part.positions[first:last][: None if limit is None else max(0, limit - len(found))]
            found += (taken.astype(np.int64) + part.begin).tolist()
        return found

    def longest_prefix(self, ids: Ids) -> int:
        """The number of tokens of the longest prefix of `ids` that stands in the shard."""
        wanted = self._encode(ids)
        if wanted is None:
            return 0
        longest = 0
        for part in self._parts:
            place = bisect_left(part.positions, wanted.tobytes(), key=self._key(part, len(wanted)))
            # the suffixes beside the place where `ids` would stand have the longest prefixes in common with it
            for position in part.positions[max(0, place - 1) : place + 1].tolist():
                longest = max(longest, _common_prefix(part.tokens[position : position + len(wanted)], wanted))
        return longest

    def _ranges(self, ids: Ids) -> Iterator[tuple[_Part, int, int]]:
        wanted = self._encode(ids)
        if wanted is None or not len(wanted):
            return
        sought = wanted.tobytes()
        for part in self._parts:
            key = self._key(part, len(wanted))
            first = bisect_left(part.positions, sought, key=key)
            last = bisect_right(part.positions, sought, lo=first, key=key)
            if last > first:
                yield part, first, last

    def _encode(self, ids: Ids) -> NDArray[np.integer] | None:
        """As the bytes of the shard, big-endian; None for an id that its type cannot hold."""
        array = np.asarray(ids, dtype=np.int64)
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) <= np.iinfo(self._big_endian).max:
            return None
        return array.astype(self._big_endian)

    def _key(self, part: _Part, length: int) -> Callable[[int], bytes]:
        """Bytes of the first tokens of a suffix, which compare as the tokens do."""
        tokens, big_endian = part.tokens, self._big_endian
        return lambda position: tokens[position : position + length].astype(big_endian).tobytes()


def bytes_to_sort(vocab_size: int) -> int:
    """Bytes of memory for each token of a part: its text, and four bytes of libdivsufsort for each of those.

    >>> bytes_to_sort(50_257), bytes_to_sort(128_256)
    (10, 15)
    """
    return 5 * _token_width(vocab_size)


def _token_width(size: int) -> int:
    return 1 if size <= 1 << 8 else 2 if size <= 1 << 16 else 3 if size <= 1 << 24 else 4


def _shard_hash(shard: TokenShard) -> str:
    """Of the sidecar, the lengths of the documents, and evenly spaced tokens: the sidecar alone has only counts, which are the
    same for documents in another order.
    """
    found = hashlib.sha256(shard.sidecar)
    found.update(np.ascontiguousarray(shard.document_lengths).tobytes())
    found.update(np.ascontiguousarray(shard.tokens[:: max(1, shard.num_tokens // HASHED_TOKENS)]).tobytes())
    return found.hexdigest()


def _plan_parts(shard: TokenShard, memory: int) -> list[tuple[int, int]]:
    """Parts of whole documents, as long as `memory` allows."""
    width = _token_width(shard.vocab_size)
    size = min(memory // bytes_to_sort(shard.vocab_size), MAX_BYTES // width)
    if size < 1_000:
        raise UserError(f"memory of {memory:,} bytes, expected at least {1_000 * 5 * width:,}")
    bounds: list[tuple[int, int]] = []
    ends = shard.document_offsets
    begin = 0
    while begin < shard.num_tokens:
        last = max(int(np.searchsorted(ends, begin + size, side="right")) - 1, 0)
        end = int(ends[last])
        if end <= begin:  # one document, longer than a part
            end = int(ends[np.searchsorted(ends, begin, side="right")])
        if (end - begin) * width > MAX_BYTES:
            raise UserError(f"{shard.base}: a document of {end - begin:,} tokens cannot be indexed")
        bounds.append((begin, end))
        begin = end
    return bounds


def _build(
    shard: TokenShard, folder: Path, bounds: Sequence[tuple[int, int]], identity: str, progress: Progress | None
) -> None:
    """The missing parts of an index; those of another one are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / ".building"
    if not marker.is_file() or marker.read_text() != identity:
        for old in (folder / INDEX_FILE, *folder.glob("*.sa")):
            old.unlink(missing_ok=True)
        write_atomically(marker, identity.encode())
    with (progress or Progress()).task("indexing the training text", total=shard.num_tokens, unit="tokens") as task:
        for number, (begin, end) in enumerate(bounds):
            path = folder / _part_name(number)
            if not path.is_file():
                partial = path.with_name(f".{path.name}.{os.getpid()}.part")
                sort_suffixes(shard.tokens[begin:end], shard.vocab_size).tofile(partial)
                commit_file(partial, path)
            task.advance(end - begin)
    marker.unlink(missing_ok=True)


def sort_suffixes(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.int32]:
    """Positions of `tokens` (N) in the order of the suffixes that begin there (N)."""
    from pydivsufsort import divsufsort  # optional dependency

    used = np.zeros(vocab_size, dtype=bool)
    for begin in range(0, len(tokens), CHUNK):
        used[tokens[begin : begin + CHUNK]] = True
    width = _token_width(max(1, int(used.sum())))
    ranks = np.cumsum(used) - 1  # as few bytes as tell the tokens apart, in their order
    text = np.empty((len(tokens), width), dtype=np.uint8)
    for begin in range(0, len(tokens), CHUNK):
        chunk = ranks[tokens[begin : begin + CHUNK]]
        for place in range(width):
            text[begin : begin + CHUNK, place] = chunk >> 8 * (width - 1 - place)
    if not len(tokens):
        return np.zeros(0, dtype=np.int32)
    order = divsufsort(text.reshape(-1))
    filled = 0
    for begin in range(0, len(order), CHUNK):  # in place: positions between two tokens are left out
        chunk = order[begin : begin + CHUNK]
        chunk = chunk[chunk % width == 0] // width
        order[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return order[:filled]


def _map_positions(path: Path, count: int) -> NDArray[np.int32]:
    size = path.stat().st_size if path.is_file() else None
    if size != 4 * count:
        found = "no such file" if size is None else f"{size:,} bytes"
        raise UserError(
            f"{path}: {found}, expected {4 * count:,} bytes", hint=f"remove {path.parent}: it is built anew"
        )
    # an array: indexing a memory map itself costs ten times as much
    return np.asarray(np.memmap(path, dtype="<i4", mode="r")) if count else np.zeros(0, dtype=np.int32)


def _part_name(number: int) -> str:
    return f"{number:05d}.sa"


def _common_prefix(first: NDArray[np.integer], second: NDArray[np.integer]) -> int:
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length
