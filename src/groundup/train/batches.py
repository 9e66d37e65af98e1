"""From token shards to batches: a pure function of (seed, step), on any number of ranks.

Each epoch visits all sequences of a source in an order of its own. No state is kept: any step's batch can be made at
any time, and a resumed run sees what the straight one saw.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.tokenizer import TokenShard
from groundup.train.order import Mixture, permute
from groundup.train.sequences import Packed, Sequences, Windows

Packing = Literal["plain", "best-fit"]
PACKINGS = {"plain": Windows, "best-fit": Packed}


class Batches:
    """Batches of one shard.

    Args:
        sequence_length: tokens in a sequence.
        batch_sequences: sequences in the batch of all ranks together.
        rank, ranks: which part of every batch is wanted: rows rank * B / ranks and following.
        shuffle: False takes the sequences in their order.
        packing: plain cuts the row of documents every T tokens; best-fit keeps documents whole and pads.
        documents: also give the number of the document that each token is in, for attention that stays inside one.
        weights: name of a source -> its share of the sequences. None takes the text as the shard has it.

    Raises UserError when a source is shorter than one sequence or unknown, or the ranks do not divide the batch.
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
        packing: Packing = "plain",
        documents: bool = False,
        weights: Mapping[str, float] | None = None,
    ):
        if batch_sequences % ranks:
            raise UserError(
                f"a batch of {batch_sequences} sequences cannot be shared by {ranks} devices evenly",
                hint=f"set train.batch_tokens={-(-batch_sequences // ranks) * ranks * sequence_length}",
            )
        self.sequence_length, self.batch_sequences = sequence_length, batch_sequences
        self.seed, self.shuffle, self.documents = seed, shuffle, documents
        self._rows = range(rank * batch_sequences // ranks, (rank + 1) * batch_sequences // ranks)
        self._sources: dict[str, Sequences]
        if weights is None:
            self._sources = {"": PACKINGS[packing](shard, sequence_length)}
        else:
            chosen = _documents_of(shard, weights)
            self._sources = {
                name: PACKINGS[packing](shard, sequence_length, part) for name, part in chosen.items()
            }
        self._mixture = Mixture([weights[name] for name in self._sources] if weights else [1.0], seed)

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch of everything."""
        return sum(source.count for source in self._sources.values())

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step: `tokens` and `labels`, int64 (B T), of this rank's B sequences.

        Labels stand in the places of tokens (the model shifts); -100 marks what is not predicted.
        """
        return self.rows(step, self._rows)

    def rows(self, step: int, rows: range) -> dict[str, Tensor]:
        """Some rows of a step's batch: a micro-batch, without making the others."""
        sources = list(self._sources.values())
        found = [sources[source].sequence(number) for source, number in self.order(step, rows)]
        fields = ("tokens", "labels", "documents") if self.documents else ("tokens", "labels")
        return {field: torch.from_numpy(np.stack([getattr(row, field) for row in found])) for field in fields}

    def order(self, step: int, rows: range) -> list[tuple[int, int]]:
        """For each row of a step: the number of its source, and which of the source's sequences it holds."""
        numbers = step * self.batch_sequences + np.arange(rows.start, rows.stop, dtype=np.int64)
        sources, numbers = self._mixture.source_of(numbers)
        counts = np.array([source.count for source in self._sources.values()])[sources]
        epochs, places = np.divmod(numbers, counts)
        if self.shuffle:
            for source, epoch in sorted(set(zip(sources.tolist(), epochs.tolist(), strict=True))):
                chosen = (sources == source) & (epochs == epoch)
                size = int(counts[chosen][0])
                places[chosen] = permute(places[chosen], size, self.seed, epoch * len(self._sources) + source)
        return list(zip(sources.tolist(), places.tolist(), strict=True))

    def seen(self, step: int) -> dict[str, Any]:
        """What was used before `step`: sequences, and epochs of each source."""
        counts = self._mixture.counts(step * self.batch_sequences)
        epochs = {
            name or "all": round(int(count) / source.count, 6)
            for count, (name, source) in zip(counts, self._sources.items(), strict=True)
        }
        return {"sequences": step * self.batch_sequences, "epochs": epochs}


def _documents_of(shard: TokenShard, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The documents of each source that has a weight. Raises UserError for a source that the shard does not have."""
    names = list(shard.sources)
    for name, weight in weights.items():
        if name not in names:
            raise UserError(
                f"weight of {name!r}: no such source", hint=f"{shard.base} has: {', '.join(names)}"
            )
        if not 0 <= weight < float("inf"):
            raise UserError(
                f"weight of {name!r} = {weight}: expected 0 or more", hint="0 leaves a source out"
            )
    if not any(weights.values()):
        raise UserError("all weights are 0", hint="give at least one source a weight above 0")
    numbers = np.asarray(shard.source_of)
    return {
        name: np.flatnonzero(numbers == names.index(name)) for name, weight in weights.items() if weight > 0
    }
