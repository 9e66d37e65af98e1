"""Context parallelism: each sequence is sharded over the ranks of the context axis.

Everything but attention works token by token, on the rank's own tokens. In attention a query needs the keys of other
ranks, by one of three methods:

    all-gather    every rank gathers all keys and values (Llama 3, section 3.3.2). Rank r of n holds the chunks r and
                  2n - 1 - r of 2n ("zigzag"), so that under a causal mask all ranks have equal work.
    ulysses       an all-to-all trades the sequence dimension for heads, and back (Jacobs et al. 2023)
    ring          keys and values travel around the ring of ranks, a chunk at a time; see ring_attention.py

Every rank is given full sequences of token ids and labels, which are small. It selects its tokens at the embedding and
its labels at the loss. In evaluation nothing is sharded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model.attention import Attention, AttentionContext, AttentionFunction, CrossKeyValues
from groundup.model.attention_mask import AttentionMask, build_mask
from groundup.model.embedding import PassThrough
from groundup.model.encoder_decoder import DecoderStack, EncoderDecoder
from groundup.model.loss import IGNORE_INDEX
from groundup.model.position_encoding import NoPositionEncoding, RelativePositionEncoding
from groundup.model.rope import Rotation
from groundup.parallel.collectives import Group, all_gather, all_to_all
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import find_blocks, find_stacks, specialize
from groundup.parallel.ring_attention import RingMask, ring_attention


@dataclass(frozen=True)
class SequenceShard:
    """The tokens of one rank: a chunk of the sequence, or with `zigzag` an early chunk and the matching late one."""

    rank: int
    size: int
    zigzag: bool

    @property
    def num_chunks(self) -> int:
        return 2 * self.size if self.zigzag else self.size

    def slices(self, length: int) -> list[slice]:
        """This rank's chunks of a sequence. Raises UserError for a length that the chunks do not divide."""
        if length % self.num_chunks:
            raise UserError(
                f"a sequence of {length} tokens over machine.layout.context = {self.size}: "
                f"expected a multiple of {self.num_chunks}",
                hint=f"set train.sequence_length to a multiple of {self.num_chunks}",
            )
        size = length // self.num_chunks
        chunks = (self.rank, self.num_chunks - 1 - self.rank) if self.zigzag else (self.rank,)
        return [slice(chunk * size, (chunk + 1) * size) for chunk in chunks]

    def select(self, x: Tensor, dim: int) -> Tensor:
        """This rank's part of a full tensor."""
        chunks = self.slices(x.shape[dim])
        return torch.cat([x.narrow(dim, chunk.start, chunk.stop - chunk.start) for chunk in chunks], dim)

    def restore_order(self, x: Tensor, dim: int) -> Tensor:
        """The full tensor, from all ranks' parts in rank order."""
        if not self.zigzag:
            return x
        chunks = x.chunk(self.num_chunks, dim)
        return torch.cat([*chunks[::2], *reversed(chunks[1::2])], dim)


@dataclass(frozen=True)
class ChunkMasks:
    """In place of an AttentionMask: for each chunk of queries the number of keys it needs, and the mask over these."""

    masks: Sequence[tuple[int, AttentionMask]]


def apply_context_parallel(model: nn.Module, mesh: Mesh) -> None:
    """Let every rank of the context axis work on its part of each sequence."""
    method, group = mesh.layout.context_method, mesh.group("context")
    shard = SequenceShard(group.rank(), group.size(), zigzag=method == "all-gather")
    attend, build = {
        "all-gather": (_attend_all_gather, _chunk_masks),
        "ring": (ring_attention, _ring_mask),
        "ulysses": (_attend_ulysses, None),  # over full sequences: the model's own mask
    }[method]
    embedding: Any = model.embedding
    specialize(embedding, _ShardedInputs, shard=shard)
    for stack in find_stacks(model):
        for encoding in stack.position_encodings.values():
            specialize(encoding, _ShardedPositions, shard=shard, build_mask=build)
    for block in find_blocks(model):
        for part in block.children():
            if isinstance(part, Attention):
                specialize(part, _ShardedAttention, sharded_function=partial(attend, group=group))
    if isinstance(model, EncoderDecoder):
        specialize(model.encoder.final_norm, _GatheredMemory, shard=shard, group=group)
        specialize(model.decoder, _ShardedQueries, shard=shard)
    head: Any = model.head
    if not isinstance(head, PassThrough):
        specialize(head, _ShardedLoss, shard=shard)


class _ShardedInputs(nn.Module):
    """The embedding, of this rank's tokens."""

    shard: SequenceShard

    def forward(self, *inputs: Any) -> Tensor:
        if self.training:
            inputs = tuple(self.shard.select(x, -1) if isinstance(x, Tensor) else x for x in inputs)
        return super().forward(*inputs)


class _ShardedPositions(NoPositionEncoding):
    """Mask and rotation of this rank's queries.

    Attributes:
        build_mask: (encoding, document ids, full length, device) -> the mask; None for the model's own.
    """

    shard: SequenceShard
    build_mask: Callable[..., Any] | None

    def forward(self, *inputs: Any) -> AttentionContext:
        mask, rotation = super().forward(*inputs)
        if not self.training:
            return AttentionContext(mask, rotation)
        if isinstance(self, RelativePositionEncoding) and self.shard.zigzag:
            assert mask.dense is not None
            length = mask.dense.shape[-1]
            chunks = [AttentionMask(dense=mask.dense[..., chunk, :]) for chunk in self.shard.slices(length)]
            return AttentionContext(ChunkMasks([(length, mask) for mask in chunks]), rotation)  # type: ignore[arg-type]
        if rotation is not None:
            rotation = Rotation(*(self.shard.select(x, -2) for x in rotation))
        return AttentionContext(mask, rotation)

    def mask(self, positions: Tensor, document_ids: Tensor | None, cache: Any) -> Any:
        biased = isinstance(self, RelativePositionEncoding)  # the mask of the model, of which `forward` selects
        if self.training and self.build_mask is not None and not biased:
            return self.build_mask(self, document_ids, positions.shape[-1], positions.device)
        return super().mask(positions, document_ids, cache)


class _ShardedAttention(nn.Module):
    """Attention with another function in training: (query, key, value, mask, function of the model)."""

    sharded_function: Callable[..., Tensor]

    @property
    def attention_function(self) -> AttentionFunction:
        full = self.__dict__["attention_function"]
        return partial(self.sharded_function, attend=full) if self.training else full


class _GatheredMemory(nn.Module):
    """The encoder's output, gathered: the decoder attends to all of it, each rank with its own queries."""

    shard: SequenceShard
    group: Group

    def forward(self, *inputs: Any) -> Tensor:
        x = super().forward(*inputs)
        return self.shard.restore_order(all_gather(x, 1, self.group), 1) if self.training else x


class _ShardedQueries(DecoderStack):
    """The decoder's cross-attention masks, for this rank's queries."""

    shard: SequenceShard

    def project_memory(
        self, memory: Tensor, num_tokens: int, document_ids: Tensor | None, decoder_document_ids: Tensor | None
    ) -> list[CrossKeyValues]:
        if self.training:
            num_tokens //= self.shard.size
            if decoder_document_ids is not None:
                decoder_document_ids = self.shard.select(decoder_document_ids, 1)
        return super().project_memory(memory, num_tokens, document_ids, decoder_document_ids)


class _ShardedLoss(nn.Module):
    """The loss of this rank's labels, weighted so that the mean over ranks is the loss over all labels."""

    shard: SequenceShard

    def loss(self, hidden: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
        if not self.training:
            return super().loss(hidden, labels, z_loss)  # type: ignore[misc]
        local = self.shard.select(labels, 1)
        weight = (local != IGNORE_INDEX).sum() * self.shard.size / (labels != IGNORE_INDEX).sum().clamp(min=1)
        return super().loss(hidden, local, z_loss) * weight  # type: ignore[misc]


def _chunk_masks(
    encoding: _ShardedPositions, document_ids: Tensor | None, length: int, device: torch.device
) -> ChunkMasks:
    masks = []
    for chunk in encoding.shard.slices(length):
        end = chunk.stop if encoding.causal else length
        mask = build_mask(
            chunk.stop - chunk.start,
            end,
            device,
            causal=encoding.causal,
            window=encoding.window,
            document_ids=None if document_ids is None else document_ids[:, chunk],
            key_document_ids=None if document_ids is None else document_ids[:, :end],
            query_offset=chunk.start,
        )
        masks.append((end, mask))
    return ChunkMasks(masks)


def _ring_mask(encoding: _ShardedPositions, document_ids: Tensor | None, length: int, device: torch.device) -> RingMask:
    return RingMask(encoding.causal, encoding.window, document_ids)


def _attend_all_gather(
    query: Tensor, key: Tensor, value: Tensor, mask: ChunkMasks, *, attend: AttentionFunction, group: Group
) -> Tensor:
    shard = SequenceShard(group.rank(), group.size(), zigzag=True)
    key, value = shard.restore_order(all_gather(torch.stack((key, value)), 3, group), 3)
    chunks = zip(query.chunk(len(mask.masks), 2), mask.masks, strict=True)
    return torch.cat([attend(chunk, key[:, :, :end], value[:, :, :end], part) for chunk, (end, part) in chunks], 2)


def _attend_ulysses(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, *, attend: AttentionFunction, group: Group
) -> Tensor:
    """Each rank attends over full sequences, with its part of the heads."""
    size = group.size()
    repeats = kv_repeats(query.shape[1], key.shape[1], size)
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if mask.dense is not None and mask.dense.shape[1] > 1:
        mask = AttentionMask(dense=mask.dense.chunk(size, 1)[group.rank()])
    query, key, value = (_scatter_heads(x, group) for x in (query, key, value))
    return _gather_heads(attend(query, key, value, mask), group)


def kv_repeats(query_heads: int, key_heads: int, size: int) -> int:
    """Copies of each key head so that `size` ranks get equally many."""
    if key_heads % size == 0:
        return 1
    return size // key_heads if size % key_heads == 0 else query_heads // key_heads


def _scatter_heads(x: Tensor, group: Group) -> Tensor:
    """(B, H, T / n, K) -> (B, H / n, T, K)."""
    by_rank = x.unflatten(1, (group.size(), -1)).movedim(1, 0)
    return all_to_all(by_rank, group).movedim(0, 2).flatten(2, 3)


def _gather_heads(x: Tensor, group: Group) -> Tensor:
    """(B, H / n, T, K) -> (B, H, T / n, K)."""
    by_rank = x.unflatten(2, (group.size(), -1)).movedim(2, 0)
    return all_to_all(by_rank, group).movedim(0, 1).flatten(1, 2)
