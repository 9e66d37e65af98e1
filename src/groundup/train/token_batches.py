"""From token shards to batches: a pure function of (seed, step), on any number of ranks.

Each epoch visits all sequences of a source in an order of its own. No state is kept: any step's batch can be made at
any time, and a resumed run sees what the straight one saw.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.plan.derive import require_derived
from groundup.plan.size_warmup import SizeWarmup
from groundup.recipe.train_config import Packing, TrainConfig
from groundup.tokenizer import TokenShard
from groundup.train.sequence_order import SourceMixture, feistel_permutation
from groundup.train.sequence_packing import BestFitSequences, ConcatSequences, PackedSequences, TokenSpan

SEQUENCE_PACKINGS: dict[Packing, type[ConcatSequences] | type[BestFitSequences]] = {
    "concat": ConcatSequences,
    "best-fit": BestFitSequences,
}

IGNORE_INDEX = -100
"""The label of a position that is not predicted."""

ORDER_CHUNK = 4096
"""Places in the order of sequences that are worked out at once: for one it would take as long."""


class TokenBatches:
    """Batches of one shard.

    Args:
        sequence_length: tokens in a sequence, T.
        batch_sequences: sequences in the batch of all ranks together.
        rank, ranks: which part of every batch is wanted: rows rank * B / ranks and following.
        shuffle: False takes the sequences in their order.
        packing: concat cuts the row of documents every T tokens; best-fit keeps documents whole and pads.
        documents: also give the number of the document that each token is in, for attention that stays inside one.
        weights: name of a source -> its share of the sequences. None takes the text as the shard has it.
        first_sequences, first_length: sequences in the first batch, and the tokens in which they are cut there. Both
            double until they have their full size at step `growth_steps`. A cut never changes which tokens a step sees.

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
        num_ranks: int = 1,
        shuffle: bool = True,
        packing: Packing = "concat",
        document_mask: bool = False,
        weights: Mapping[str, float] | None = None,
        initial_sequences: int | None = None,
        initial_length: int | None = None,
        batch_warmup_steps: int = 0,
    ):
        self.sequence_length, self.seed, self.shuffle, self.document_mask = (
            sequence_length,
            seed,
            shuffle,
            document_mask,
        )
        self._sequences = SizeWarmup(
            batch_sequences,
            initial_sequences,
            batch_warmup_steps,
            "train.initial_batch_tokens, in sequences,",
        )
        self._length = SizeWarmup(
            sequence_length, initial_length, batch_warmup_steps, "train.initial_sequence_length"
        )
        if self._sequences.size_at(0) % num_ranks:
            least = -(-batch_sequences // num_ranks) * num_ranks * sequence_length
            raise UserError(
                f"a batch of {self._sequences.size_at(0)} sequences cannot be shared by {num_ranks} devices evenly",
                hint=f"set train.batch_tokens={least}"
                if initial_sequences is None
                else "start with a larger one",
            )
        self.shard, self._rank, self._ranks = shard, rank, num_ranks
        self._sources: dict[str, PackedSequences]
        if weights is None:
            self._sources = {"": SEQUENCE_PACKINGS[packing](shard, sequence_length)}
        else:
            chosen = _documents_by_source(shard, weights)
            self._sources = {
                name: SEQUENCE_PACKINGS[packing](shard, sequence_length, part)
                for name, part in chosen.items()
            }
        self._mixture = SourceMixture([weights[name] for name in self._sources] if weights else [1.0], seed)
        self._cached_order = lru_cache(maxsize=8)(self._order_of_chunk)

    @classmethod
    def from_recipe(
        cls, shard: TokenShard, settings: TrainConfig, seed: int, *, rank: int = 0, num_ranks: int = 1
    ) -> "TokenBatches":
        """The batches that a derived recipe asks for."""
        length = require_derived(settings.sequence_length, "train.sequence_length")
        first = settings.initial_batch_tokens
        if first is not None and first % length:
            raise UserError(
                f"train.initial_batch_tokens = {first}: not a whole number of sequences of {length} tokens",
                hint=f"set train.initial_batch_tokens={max(1, first // length) * length}",
            )
        return cls(
            shard,
            length,
            require_derived(settings.batch_tokens, "train.batch_tokens") // length,
            seed,
            rank=rank,
            num_ranks=num_ranks,
            packing=settings.packing,
            document_mask=settings.document_mask,
            weights=settings.mix,
            initial_sequences=first and first // length,
            initial_length=settings.initial_sequence_length,
            batch_warmup_steps=settings.batch_warmup_steps or 0,
        )

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch of everything."""
        return sum(source.count for source in self._sources.values())

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step: `tokens` and `labels`, int64 (B T), of this rank's B sequences.

        Labels stand in the places of tokens (the model shifts); -100 marks what is not predicted. Where everything is
        predicted the two are one tensor. Raises UserError for a token that the vocabulary does not have.
        """
        sources = list(self._sources.values())
        begin = self._sequences.total_before(step)
        part = self._sequences.size_at(step) // self._ranks
        order = self.order(begin + self._rank * part, part)
        rows = [sources[source].spans(number) for source, number in order]
        found = self._read_rows(rows, [sources[source].num_repeated(number) for source, number in order])
        length = self._length.size_at(step)
        return {name: torch.from_numpy(value).view(-1, length) for name, value in found.items()}

    def order(self, begin: int, count: int) -> list[tuple[int, int]]:
        """For `count` sequences from the `begin`-th of the training: the number of the source, and of its sequence."""
        found: list[tuple[int, int]] = []
        while count > len(found):
            block, place = divmod(begin + len(found), ORDER_CHUNK)
            found += self._cached_order(block)[place : place + count - len(found)]
        return found

    def step_stats(self, step: int) -> dict[str, Any]:
        """What the log says of a step: the epochs that are done behind it, and the tokens it takes from each source.

        `epochs_of` each source where they are mixed by weight; `tokens_of` each source, of all ranks together.
        """
        begin, count = self._sequences.total_before(step), self._sequences.size_at(step)
        used = self._mixture.counts(begin + count)
        facts: dict[str, Any] = {"epoch": round((begin + count) / self.num_sequences, 6)}
        if len(self._sources) > 1:
            facts["epochs_by_source"] = {
                name: round(int(number) / source.count, 6)
                for number, (name, source) in zip(used, self._sources.items(), strict=True)
            }
        sources = list(self._sources.values())
        tokens = np.zeros(len(self.shard.sources), np.int64)
        for source, number in self.order(begin, count):
            for run in sources[source].spans(number):
                documents, sizes = self.shard.documents_in_range(*run)
                np.add.at(tokens, self.shard.document_sources[documents], sizes)
        return facts | {"tokens_by_source": dict(zip(self.shard.sources, tokens.tolist(), strict=True))}

    def _order_of_chunk(self, block: int) -> list[tuple[int, int]]:
        sources, numbers = self._mixture.source_and_index(
            block * ORDER_CHUNK + np.arange(ORDER_CHUNK, dtype=np.int64)
        )
        counts = np.array([source.count for source in self._sources.values()])[sources]
        epochs, places = np.divmod(numbers, counts)
        if self.shuffle:
            for source, epoch in sorted(set(zip(sources.tolist(), epochs.tolist(), strict=True))):
                chosen = (sources == source) & (epochs == epoch)
                size = int(counts[chosen][0])
                places[chosen] = feistel_permutation(
                    places[chosen], size, self.seed, epoch * len(self._sources) + source
                )
        return list(zip(sources.tolist(), places.tolist(), strict=True))

    def _read_rows(self, rows: list[list[TokenSpan]], repeated: list[int]) -> dict[str, np.ndarray]:
        """Copy the stretches of each row out of the shard; that they are read once is why this is quick."""
        shard, length = self.shard, self.sequence_length
        tokens = np.empty((len(rows), length), np.int64)
        labels = tokens
        shard.fetch(run for runs in rows for run in runs)
        for row, runs in enumerate(rows):
            filled = 0
            for begin, end in runs:
                tokens[row, filled : filled + end - begin] = shard.read(begin, end)
                filled += end - begin
            tokens[row, filled:] = shard.end_of_text
        if tokens.max(initial=0) >= shard.vocab_size:
            raise UserError(
                f"{shard.base}: token {tokens.max()}, but its tokenizer has {shard.vocab_size} entries",
                hint="the file is damaged: groundup verify RUN",
            )
        sizes = [sum(end - begin for begin, end in runs) for runs in rows]
        if any(repeated) or min(sizes) < length:
            labels = tokens.copy()
            for row, (known, size) in enumerate(zip(repeated, sizes, strict=True)):
                labels[row, :known] = IGNORE_INDEX
                labels[row, size:] = IGNORE_INDEX
        found = {"tokens": tokens, "labels": labels}
        if self.document_mask:
            found["document_ids"] = self._document_ids(tokens, rows)
        return found

    def _document_ids(self, tokens: np.ndarray, rows: list[list[TokenSpan]]) -> np.ndarray:
        """0, 1, 2, ... for the document that each token of a row is in; padding is a document of its own.

        Another begins behind each end of text, which no text spells, and with each run.
        """
        begins = np.zeros(tokens.shape, np.int64)
        begins[:, 1:] = tokens[:, :-1] == self.shard.end_of_text
        for row, runs in enumerate(rows):
            filled = 0
            for begin, end in runs:
                filled += end - begin
                begins[row, filled : filled + 1] = 1
            begins[row, filled + 1 :] = 0
        return np.cumsum(begins, axis=1)


def _documents_by_source(shard: TokenShard, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
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
    numbers = np.asarray(shard.document_sources)
    return {
        name: np.flatnonzero(numbers == names.index(name)) for name, weight in weights.items() if weight > 0
    }
