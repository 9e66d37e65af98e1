"""Byte-pair encoding of many pieces side by side: in each round, every piece does the one join that is its next.

A few dozen operations on whole arrays encode a hundred thousand pieces; the oracle is bpe.py, which does one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from groundup.tokenizer.byte_letters import LETTER_OF

PLACE_BITS = 40
"""Of a number that holds a merge's rank above and a place below, so that one minimum finds both."""


class Merges:
    """The merges of a byte-level vocabulary, as arrays.

    Args:
        vocabulary: token, in byte letters -> id.
        merges: pairs of tokens, the first learnt first.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]]):
        self._of_byte = np.array([vocabulary[LETTER_OF[byte]] for byte in range(256)])
        pairs = np.array(
            [(vocabulary[left] << 32) | vocabulary[right] for left, right in merges], dtype=np.int64
        )
        order = np.argsort(pairs)
        self._pairs = np.append(pairs[order], np.iinfo(np.int64).max)
        self._ranks = np.append(order, len(merges))
        self._joined = np.array([vocabulary[left + right] for left, right in merges], dtype=np.int64)
        self._none = len(merges)

    def encode(self, text: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode pieces that lie one after the other.

        text: their bytes, uint8. ends: where each ends, ascending; none is empty.
        Returns the ids of all, in order, and how many each has.
        """
        ids = self._of_byte[text]
        piece = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        last = np.zeros(len(ids), bool)  # of its piece
        last[ends - 1] = True
        rank = np.full(len(ids), self._none)  # of the join with the next
        self._look_up(ids, rank, np.flatnonzero(~last))
        finished_ids, finished_pieces = [ids[:0]], [piece[:0]]
        while len(ids):
            first = np.flatnonzero(np.concatenate(([True], last[:-1])))
            best = np.minimum.reduceat((rank << PLACE_BITS) | np.arange(len(ids)), first)
            best_rank, place = best >> PLACE_BITS, best & ((1 << PLACE_BITS) - 1)
            done = best_rank == self._none
            going = ~np.repeat(done, np.diff(first, append=len(ids)))
            finished_ids.append(ids[~going])
            finished_pieces.append(piece[~going])
            place = place[~done]
            ids[place] = self._joined[best_rank[~done]]
            last[place] = last[place + 1]
            going[place + 1] = False
            place = (np.cumsum(going) - 1)[place]
            ids, piece, last, rank = ids[going], piece[going], last[going], rank[going]
            rank[place] = self._none
            self._look_up(ids, rank, place[~last[place]])
            before = place[place > 0] - 1
            self._look_up(ids, rank, before[~last[before]])
        pieces = np.concatenate(finished_pieces)
        order = np.argsort(pieces, kind="stable")
        return np.concatenate(finished_ids)[order], np.bincount(pieces, minlength=len(ends))

    def _look_up(self, ids: np.ndarray, rank: np.ndarray, places: np.ndarray) -> None:
        """Set the rank of the join at each of `places`."""
        pairs = (ids[places] << 32) | ids[places + 1]
        found = np.searchsorted(self._pairs, pairs)
        rank[places] = np.where(self._pairs[found] == pairs, self._ranks[found], self._none)
