"""From token shards to batches: a pure function of (seed, step), on any number of ranks.

The tokens of a shard are one long row, cut into windows of `sequence_length` tokens. Neighbours share one token, so
that every token but the very first is predicted exactly once in an epoch. Each epoch visits all windows in an order of
its own. No state is kept: any step's batch can be made at any time, and a resumed run sees what the straight one saw.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.tokenizer import TokenShard

IGNORE = -100
ROUNDS = 6


class Batches:
    """Batches of one shard.

    Args:
        sequence_length: tokens in a sequence.
        batch_sequences: sequences in the batch of all ranks together.
        rank, ranks: which part of every batch is wanted: rows rank * B / ranks and following.
        shuffle: False takes the windows in their order, as when held-out text is scored.
        documents: also give the number of the document that each token is in, for attention that stays inside one.

    Raises UserError when the shard is shorter than one sequence, or the ranks do not divide the batch.
    """

    def __init__(
        self,
        shard: TokenShard,
        sequence_length: int,
        batch_sequences: int,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        documents: bool = False,
    ):
        if shard.num_tokens < sequence_length:
            raise UserError(
                f"{shard.base}: {shard.num_tokens} tokens, fewer than one sequence of {sequence_length}",
                hint="add text, or set a smaller train.sequence_length",
            )
        if batch_sequences % ranks:
            raise UserError(
                f"a batch of {batch_sequences} sequences cannot be shared by {ranks} devices evenly",
                hint=f"set train.batch_tokens={-(-batch_sequences // ranks) * ranks * sequence_length}",
            )
        self.shard, self.sequence_length, self.batch_sequences = shard, sequence_length, batch_sequences
        self.seed, self.shuffle, self.documents = seed, shuffle, documents
        self._rows = range(rank * batch_sequences // ranks, (rank + 1) * batch_sequences // ranks)
        self._span = np.arange(sequence_length)
        # Windows begin every T - 1 tokens; the last one ends with the shard and overlaps its neighbour by more.
        self.num_windows = max(1, -(-(shard.num_tokens - 1) // (sequence_length - 1)))

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step: `tokens` and `labels`, int64 (B T), of this rank's B sequences.

        Labels stand in the places of tokens (the model shifts); -100 marks what another window predicts.
        """
        return self.rows(step, self._rows)

    def rows(self, step: int, rows: range) -> dict[str, Tensor]:
        """Some rows of a step's batch: a micro-batch, without making the others."""
        windows = self.windows(step, rows)
        wanted = windows * (self.sequence_length - 1)
        begins = np.minimum(wanted, self.shard.num_tokens - self.sequence_length)
        positions = begins[:, None] + self._span
        tokens = torch.from_numpy(self.shard.tokens[positions].astype(np.int64))
        labels = tokens.clone()
        for row in np.flatnonzero(wanted != begins):
            labels[row, : wanted[row] - begins[row] + 1] = IGNORE
        batch = {"tokens": tokens, "labels": labels}
        if self.documents:
            numbers = np.searchsorted(self.shard.begins, positions, side="right") - 1
            batch["documents"] = torch.from_numpy(numbers - numbers[:, :1])
        return batch

    def windows(self, step: int, rows: range) -> np.ndarray:
        """Which windows the rows of a step hold (len(rows),)."""
        positions = step * self.batch_sequences + np.arange(rows.start, rows.stop, dtype=np.int64)
        epochs, places = np.divmod(positions, self.num_windows)
        if not self.shuffle:
            return places
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = permute(places[chosen], self.num_windows, self.seed, int(epoch))
        return found

    def progress(self, step: int) -> dict[str, Any]:
        """How far the data is used before `step`: epochs begun and tokens seen."""
        seen = step * self.batch_sequences
        return {"epoch": seen / self.num_windows, "tokens": seen * self.sequence_length}


def permute(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where a random permutation of 0 .. size-1 takes `places`; no other place is looked at.

    A Feistel network of six rounds on the next even number of bits is a permutation whatever its round function
    (Luby and Rackoff 1988); what falls beyond `size` is sent through again until it falls inside (cycle walking,
    Black and Rogaway 2002), at most four times in the mean.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence((seed, epoch)).generate_state(ROUNDS, np.uint64)
    values = places.astype(np.uint64)
    todo = np.arange(len(values))
    while len(todo):
        left, right = values[todo] >> half, values[todo] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        values[todo] = (left << half) | right
        todo = todo[values[todo] >= size]
    return values.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
