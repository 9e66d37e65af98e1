"""Encode much text: each distinct piece once, and the rest by looking it up.

Text repeats itself: of the pieces in a megabyte, nine in ten were seen before. So: cut everything (pieces.py), number
the distinct pieces (Arrow's dictionary encoding), merge those that are new (merge.py), and gather.
"""

import json
from collections.abc import Sequence

import numpy as np
import tokenizers

from groundup.tokenizer.merge import Merges
from groundup.tokenizer.patterns import known_pattern
from groundup.tokenizer.pieces import CUTS, SEPARATOR, distinct
from groundup.tokenizer.tokenizer import Tokenizer

LONG = 64
"""Pieces of more bytes are rare; the library encodes them one by one."""

REMEMBERED = 4_000_000
"""Distinct pieces that are kept. When there are more, all are forgotten and learnt again."""


class BulkEncoder:
    """Documents to ids, each followed by the end of text. Equal to Tokenizer.encode, id for id.

    A tokenizer that does not cut by a known pattern is left to the `tokenizers` library.
    """

    def __init__(self, tokenizer: Tokenizer):
        assert tokenizer.eos_id is not None
        self._tokenizer = tokenizer
        self._end_of_text = tokenizer.eos_id
        rules = json.loads(tokenizer.backend.to_str())
        self.pattern = known_pattern(rules)
        if self.pattern is None:
            return
        self._cut = CUTS[self.pattern]
        merges = rules["model"].get("merges", [])
        merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in merges]
        self._merges = Merges(rules["model"]["vocab"], merges) if rules["model"]["type"] == "BPE" else None
        rules["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        rules["pre_tokenizer"]["trim_offsets"] = True
        self._whole_pieces = tokenizers.Tokenizer.from_str(json.dumps(rules))
        self._whole_pieces.encode_special_tokens = True
        self._forget()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all documents in a row, uint32, and how many each has, its end of text included."""
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        if self.pattern is None:
            return self._encode_one_by_one(texts)
        pieces, places = distinct(texts, self._cut)
        numbers = self._numbers(pieces)[places]
        begins = self._begins[numbers]
        lengths = self._begins[numbers + 1] - begins
        ends = np.cumsum(lengths)
        ids = self._ids[np.arange(ends[-1]) + np.repeat(begins - (ends - lengths), lengths)]
        return ids, np.diff(ends[numbers == 0], prepend=0)

    def _numbers(self, pieces: list[bytes]) -> np.ndarray:
        """The numbers under which pieces are remembered; those that are new are encoded first."""
        if len(self._number_of) > REMEMBERED:
            self._forget()
        known = self._number_of
        new = [piece for piece in pieces if piece not in known]
        longest = LONG if self._merges else 0
        short = [piece for piece in new if len(piece) <= longest]
        long = [piece for piece in new if len(piece) > longest]
        if short and self._merges:
            ends = np.cumsum([len(piece) for piece in short])
            self._remember(short, *self._merges.encode(np.frombuffer(b"".join(short), np.uint8), ends))
        if long:
            encodings = self._whole_pieces.encode_batch_fast(
                [piece.decode() for piece in long], add_special_tokens=False
            )
            rows = [encoding.ids for encoding in encodings]
            self._remember(long, np.concatenate(rows), np.array([len(row) for row in rows]))
        return np.fromiter(map(known.__getitem__, pieces), np.int64, len(pieces))

    def _remember(self, pieces: list[bytes], ids: np.ndarray, lengths: np.ndarray) -> None:
        first = len(self._number_of)
        self._number_of.update(zip(pieces, range(first, first + len(pieces)), strict=True))
        used = self._begins[first]
        self._ids = _with_room(self._ids, used + len(ids))
        self._begins = _with_room(self._begins, first + len(pieces) + 1)
        self._ids[used : used + len(ids)] = ids
        self._begins[first + 1 : first + 1 + len(pieces)] = used + np.cumsum(lengths)

    def _forget(self) -> None:
        """Remember only the separator, as piece 0: it stands for the end of text."""
        self._number_of: dict[bytes, int] = {SEPARATOR.encode("utf-8", "surrogatepass"): 0}
        self._ids = np.full(1 << 16, self._end_of_text, np.uint32)
        self._begins = np.zeros(1 << 16, np.int64)  # of each piece in `ids`, and where the last one ends
        self._begins[1] = 1

    def _encode_one_by_one(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = self._tokenizer.encode_batch(texts)
        lengths = np.array([len(row) + 1 for row in rows])
        return np.array([id for row in rows for id in (*row, self._end_of_text)], dtype=np.uint32), lengths


def _with_room(array: np.ndarray, size: int) -> np.ndarray:
    """`array`, or a copy with twice the room or more."""
    if size <= len(array):
        return array
    grown = np.zeros(max(size, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
