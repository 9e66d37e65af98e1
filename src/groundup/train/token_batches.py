"""Batches from token shards: a pure function of (seed, step), for any number of ranks.

Each epoch visits all sequences of a source in a new order. There is no state: any batch can be made at any time, and a
resumed run gets the same ones.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.arguments import check_choice, unknown_option
from groundup.artifacts.errors import UserError
from groundup.model.loss import IGNORE_INDEX
from groundup.plan.checks.stage_support import check_mix
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.time.size_warmup import SizeWarmup, check_data_ranks, initial_sequences
from groundup.recipe.train_config import Packing, TrainConfig
from groundup.train.sequence_order import SourceMixture, feistel_permutation
from groundup.train.sequence_packing import (
    BestFitSequences,
    ConcatSequences,
    PackedSequences,
    TokenArray,
    TokenSource,
    TokenSpan,
)

SEQUENCE_PACKINGS: dict[Packing, type[ConcatSequences] | type[BestFitSequences]] = {
    "concat": ConcatSequences,
    "best-fit": BestFitSequences,
}

ORDER_CHUNK = 4096
"""Sequences whose order is computed at once: a single one takes as long."""


class TokenBatches:
    """Batches of one token shard.

    Args:
        sequence_length: tokens in a sequence, T.
        batch_sequences: sequences in the global batch, B.
        rank, num_ranks: this rank gets sequences rank * B / num_ranks and following.
        shuffle: False keeps the order of the shard.
        packing: concat concatenates documents and splits every T tokens; best-fit keeps documents whole and pads.
        document_mask: add `document_ids`, which restrict attention to a document.
        weights: source name -> weight of its sequences. None: the text in the order of the shard.
        initial_sequences, initial_length: sequences in the first batch, and their length. Both double until they reach their
            full size at step `batch_warmup_steps`. The length does not change which tokens a step contains.

    Raises UserError for sources that are unknown or shorter than a sequence, or a batch not divisible by the ranks.
    """

    def __init__(
        self,
        shard: TokenSource,
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
        for name, size in ("sequence_length", sequence_length), ("batch size", batch_sequences):
            if size < 1:
                raise UserError(f"{name} = {size}, expected at least 1")
        self.sequence_length, self.seed = sequence_length, seed
        self.shuffle, self.document_mask = shuffle, document_mask
        self._sequences = SizeWarmup(
            batch_sequences, initial_sequences, batch_warmup_steps, "initial_sequences (train.initial_batch_tokens)"
        )
        self._length = SizeWarmup(
            sequence_length, initial_length, batch_warmup_steps, "initial_length (train.initial_sequence_length)"
        )
        check_data_ranks(self._sequences, num_ranks, sequence_length)
        self.shard, self._rank, self._ranks = shard, rank, num_ranks
        self._sources: dict[str, PackedSequences]
        if weights is None:
            self._sources = {"": SEQUENCE_PACKINGS[packing](shard, sequence_length)}
        else:
            documents = _documents_by_source(shard, weights)
            self._sources = {
                name: SEQUENCE_PACKINGS[packing](shard, sequence_length, indices) for name, indices in documents.items()
            }
        self._mixture = SourceMixture([weights[name] for name in self._sources] if weights else [1.0], seed)
        self._cached_order = lru_cache(maxsize=8)(self._order_of_chunk)

    @classmethod
    def from_recipe(
        cls, shard: TokenSource, settings: TrainConfig, seed: int, *, rank: int = 0, num_ranks: int = 1
    ) -> "TokenBatches":
        """The batches of a recipe with derived values."""
        length = require_derived(settings.sequence_length, "train.sequence_length")
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
            initial_sequences=initial_sequences(settings, length),
            initial_length=settings.initial_sequence_length,
            batch_warmup_steps=settings.batch_warmup_steps or 0,
        )

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch of all sources."""
        return sum(source.count for source in self._sources.values())

    def batch(self, step: int) -> dict[str, Tensor]:
        """`tokens` and `labels` of a step, int64 (B T), of this rank's sequences.

        Labels are at the positions of their tokens (the model shifts); -100 has no loss. They are the same tensor if all
        tokens have a loss. Raises UserError for token ids beyond the vocabulary.
        """
        sources = list(self._sources.values())
        begin = self._sequences.total_before(step)
        count = self._sequences.size_at(step) // self._ranks
        order = self.order(begin + self._rank * count, count)
        rows = [sources[source].spans(index) for source, index in order]
        arrays = self._read_rows(rows, [sources[source].num_repeated(index) for source, index in order])
        length = self._length.size_at(step)
        return {name: torch.from_numpy(array).view(-1, length) for name, array in arrays.items()}

    def order(self, begin: int, count: int) -> list[tuple[int, int]]:
        """(source, sequence) indices of `count` sequences, from the `begin`-th of the training."""
        order: list[tuple[int, int]] = []
        while count > len(order):
            chunk, offset = divmod(begin + len(order), ORDER_CHUNK)
            order += self._cached_order(chunk)[offset : offset + count - len(order)]
        return order

    def step_stats(self, step: int) -> dict[str, Any]:
        """Fields of a step's record: `epoch` after it, and `tokens_by_source` over all ranks.

        With several sources also `epochs_by_source`.
        """
        begin, count = self._sequences.total_before(step), self._sequences.size_at(step)
        used = self._mixture.counts(begin + count)
        stats: dict[str, Any] = {"epoch": round((begin + count) / self.num_sequences, 6)}
        if len(self._sources) > 1:
            stats["epochs_by_source"] = {
                name: round(int(count) / source.count, 6)
                for count, (name, source) in zip(used, self._sources.items(), strict=True)
            }
        sources = list(self._sources.values())
        tokens = np.zeros(len(self.shard.sources), np.int64)
        for source, index in self.order(begin, count):
            for span in sources[source].spans(index):
                documents, sizes = self.shard.documents_in_range(*span)
                np.add.at(tokens, self.shard.document_sources[documents], sizes)
        return stats | {"tokens_by_source": dict(zip(self.shard.sources, tokens.tolist(), strict=True))}

    def _order_of_chunk(self, chunk: int) -> list[tuple[int, int]]:
        sources, indices = self._mixture.source_and_index(chunk * ORDER_CHUNK + np.arange(ORDER_CHUNK, dtype=np.int64))
        counts = np.array([source.count for source in self._sources.values()])[sources]
        epochs, positions = np.divmod(indices, counts)
        if self.shuffle:
            for source, epoch in sorted(set(zip(sources.tolist(), epochs.tolist(), strict=True))):
                selected = (sources == source) & (epochs == epoch)
                size = int(counts[selected][0])
                positions[selected] = feistel_permutation(
                    positions[selected], size, self.seed, epoch * len(self._sources) + source
                )
        return list(zip(sources.tolist(), positions.tolist(), strict=True))

    def _read_rows(self, rows: list[list[TokenSpan]], repeated: list[int]) -> dict[str, np.ndarray]:
        """Copy the token spans of each sequence out of the shard."""
        shard, length = self.shard, self.sequence_length
        tokens = np.empty((len(rows), length), np.int64)
        labels = tokens
        shard.fetch(span for spans in rows for span in spans)
        for row, spans in enumerate(rows):
            filled = 0
            for begin, end in spans:
                tokens[row, filled : filled + end - begin] = shard.read(begin, end)
                filled += end - begin
            tokens[row, filled:] = shard.end_of_text
        if tokens.max(initial=0) >= shard.vocab_size:
            raise UserError(
                f"{shard.base}: token {tokens.max()}, but its tokenizer has {shard.vocab_size} entries",
                hint="the file is corrupt: groundup verify RUN",
            )
        sizes = [sum(end - begin for begin, end in spans) for spans in rows]
        if any(repeated) or min(sizes) < length:
            labels = tokens.copy()
            for row, (overlap, size) in enumerate(zip(repeated, sizes, strict=True)):
                labels[row, :overlap] = IGNORE_INDEX
                labels[row, size:] = IGNORE_INDEX
        arrays = {"tokens": tokens, "labels": labels}
        if self.document_mask:
            arrays["document_ids"] = self._document_ids(tokens, rows)
        return arrays

    def _document_ids(self, tokens: np.ndarray, rows: list[list[TokenSpan]]) -> np.ndarray:
        """0, 1, 2, ... for the document of each token in its sequence; padding is a document of its own.

        A document begins after each end-of-text token, and with each span.
        """
        begins = np.zeros(tokens.shape, np.int64)
        begins[:, 1:] = tokens[:, :-1] == self.shard.end_of_text
        for row, spans in enumerate(rows):
            filled = 0
            for begin, end in spans:
                filled += end - begin
                begins[row, filled : filled + 1] = 1
            begins[row, filled + 1 :] = 0
        return np.cumsum(begins, axis=1)


def _documents_by_source(shard: TokenSource, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Document indices of each source with a weight. Raises UserError for unknown sources."""
    names = list(shard.sources)
    check_mix(weights, names, str(shard.base))
    sources = np.asarray(shard.document_sources)
    return {name: np.flatnonzero(sources == names.index(name)) for name, weight in weights.items() if weight > 0}


def make_batches(
    tokens: Iterable[int] | np.ndarray,
    sequence_length: int,
    batch_size: int,
    *,
    seed: int = 0,
    end_of_text: int | None = None,
    **options: Any,
) -> TokenBatches:
    """Shuffled batches of a list or array of token ids, for `train`.

        batches = make_batches(tokenizer.encode(text), sequence_length=64, batch_size=8)
        batches.batch(0)["tokens"].shape  # (8, 64)

    Args:
        end_of_text: the id that ends each document; needed for `packing="best-fit"` and `document_mask=True`.
        options: see TokenBatches.
    """
    tokens = np.asarray(tokens if hasattr(tokens, "__array__") else list(tokens))
    if tokens.size and tokens.dtype.kind not in "iu":
        raise UserError(
            f"token ids are {tokens.dtype}, expected integers", hint="tokenizer.encode(text) gives token ids"
        )
    known = [name for name in signature(TokenBatches).parameters if name not in ("shard", "batch_sequences")]
    for name in options:
        if name not in known:
            raise unknown_option(name, known)
    check_choice("packing", options.get("packing", "concat"), SEQUENCE_PACKINGS)
    return TokenBatches(TokenArray(tokens, end_of_text), sequence_length, batch_size, seed, **options)
