"""Context parallelism: the devices of the context axis share each sequence.

Everything but attention works token by token, so a rank needs its own tokens only. In attention a query must see the
keys of other ranks:

    all-gather    every rank gets all keys and values (Llama 3, section 3.3.2). Rank r of n holds the chunks r and
                  2n - 1 - r of 2n, so that under a causal mask all ranks have equal work.
    ulysses       ranks exchange their parts of the sequence for heads, and back (Jacobs et al. 2023)
    ring          keys and values go round, one part at a time; see ring_attention.py

Every rank is given whole rows of tokens and labels, which are small. It takes its part where tokens become vectors, and
where hidden states meet labels. In evaluation nothing is shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model.attention import Attention, AttentionContext, AttentionFunction
from groundup.model.attention_mask import AttentionMask, build_mask
from groundup.model.encoder_decoder import EncoderDecoder
from groundup.model.loss import IGNORE_INDEX
from groundup.model.position_encoding import RelativePositionEncoding
from groundup.model.rope import Rotation
from groundup.parallel.collectives import Group, all_gather, all_to_all
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import StagePassThrough, find_blocks, find_stacks, patch_method
from groundup.parallel.ring_attention import RingMask, ring_attention


@dataclass(frozen=True)
class SequenceShard:
    """Which tokens of a sequence a rank holds: one chunk, or two that balance each other."""

    rank: int
    size: int
    zigzag: bool

    @property
    def num_chunks(self) -> int:
        """Into how many a sequence is cut."""
        return 2 * self.size if self.zigzag else self.size

    def slices(self, length: int) -> list[slice]:
        """The places of this rank's chunks. Raises UserError for a length that cannot be cut evenly."""
        if length % self.num_chunks:
            raise UserError(
                f"a sequence of {length} tokens over machine.layout.context = {self.size}: "
                f"expected a multiple of {self.num_chunks}",
                hint="set train.sequence_length to one",
            )
        size = length // self.num_chunks
        numbers = (self.rank, self.num_chunks - 1 - self.rank) if self.zigzag else (self.rank,)
        return [slice(number * size, (number + 1) * size) for number in numbers]

    def select(self, x: Tensor, dim: int) -> Tensor:
        """This rank's tokens of all."""
        own = [x.narrow(dim, rows.start, rows.stop - rows.start) for rows in self.slices(x.shape[dim])]
        return torch.cat(own, dim)

    def restore_order(self, x: Tensor, dim: int) -> Tensor:
        """All ranks' tokens, as they come one rank behind the other, in the order of the sequence."""
        if not self.zigzag:
            return x
        chunks = x.chunk(self.num_chunks, dim)
        return torch.cat([*chunks[::2], *reversed(chunks[1::2])], dim)


@dataclass(frozen=True)
class ChunkMasks:
    """In place of a mask: for each chunk of queries, up to which key it may look, and the mask over those keys."""

    masks: Sequence[tuple[int, AttentionMask]]


def apply_context_parallel(model: nn.Module, mesh: Mesh) -> None:
    """Let every rank of the context axis work on its part of each sequence."""
    method, group = mesh.layout.context_method, mesh.group("context")
    part = SequenceShard(group.rank(), group.size(), zigzag=method == "all-gather")
    attend = {"all-gather": _attend_all_gather, "ulysses": _attend_ulysses, "ring": ring_attention}[method]
    masks = {
        "all-gather": _chunk_masks,
        "ring": _ring_mask,
    }  # Ulysses attends over whole sequences: the model's own mask
    model.embedding.register_forward_pre_hook(partial(_shard_inputs, part))  # type: ignore[union-attr]
    for stack in find_stacks(model):
        for sight in stack.position_encodings.values():
            if method in masks:
                patch_method(sight, "mask", _dispatch_mask, sight.mask, masks[method], sight, part)
            patch_method(sight, "forward", _shard_positions, sight.forward, sight, part)
    for block in find_blocks(model):
        for attention in block.children():
            if isinstance(attention, Attention):
                patch_method(
                    attention,
                    "attention_function",
                    _dispatch_attention,
                    attention.attention_function,
                    attend,
                    attention,
                    group,
                )
    if isinstance(model, EncoderDecoder):
        model.encoder.final_norm.register_forward_hook(partial(_gather_memory, part, group))
        patch_method(
            model.decoder,
            "project_memory",
            _project_memory,
            model.decoder.project_memory,
            model.decoder,
            part,
        )
    head: Any = model.head
    if not isinstance(head, StagePassThrough):
        patch_method(head, "loss", _loss, head.loss, head, part)


def _shard_inputs(part: SequenceShard, embedding: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if not embedding.training:
        return inputs
    return tuple(part.select(x, -1) if isinstance(x, Tensor) else x for x in inputs)


def _loss(
    loss: Callable[..., Tensor],
    head: nn.Module,
    part: SequenceShard,
    hidden: Tensor,
    labels: Tensor,
    z_loss: float = 0.0,
) -> Tensor:
    """The mean of this over the ranks is the loss over all tokens."""
    if not head.training:
        return loss(hidden, labels, z_loss)
    own = part.select(labels, 1)
    share = (own != IGNORE_INDEX).sum() * part.size / (labels != IGNORE_INDEX).sum().clamp(min=1)
    return loss(hidden, own, z_loss) * share


def _shard_positions(
    forward: Callable[..., AttentionContext], sight: nn.Module, part: SequenceShard, *inputs: Any
) -> AttentionContext:
    mask, rotation = forward(*inputs)
    if not sight.training:
        return AttentionContext(mask, rotation)
    if isinstance(sight, RelativePositionEncoding) and part.zigzag:
        assert mask.dense is not None
        length = mask.dense.shape[-1]
        rows: Any = ChunkMasks(
            [(length, AttentionMask(dense=mask.dense[..., own, :])) for own in part.slices(length)]
        )
        return AttentionContext(rows, rotation)
    if rotation is not None:
        rotation = Rotation(*(part.select(turn, -2) for turn in rotation))
    return AttentionContext(mask, rotation)


def _dispatch_mask(
    mask: Callable[..., AttentionMask],
    own_mask: Callable[..., Any],
    sight: nn.Module,
    part: SequenceShard,
    positions: Tensor,
    documents: Tensor | None,
    cache: Any,
) -> Any:
    if sight.training:
        return own_mask(sight, part, positions, documents)
    return mask(positions, documents, cache)


def _chunk_masks(sight: Any, part: SequenceShard, positions: Tensor, documents: Tensor | None) -> ChunkMasks:
    """The masks of this rank's chunks of queries, each over the keys that it may see at most."""
    length = positions.shape[-1]
    masks = []
    for own in part.slices(length):
        end = own.stop if sight.causal else length
        mask = build_mask(
            own.stop - own.start,
            end,
            positions.device,
            causal=sight.causal,
            window=sight.window,
            document_ids=None if documents is None else documents[:, own],
            key_document_ids=None if documents is None else documents[:, :end],
            query_offset=own.start,
        )
        masks.append((end, mask))
    return ChunkMasks(masks)


def _ring_mask(sight: Any, part: SequenceShard, positions: Tensor, documents: Tensor | None) -> RingMask:
    return RingMask(sight.causal, sight.window, documents)


def _dispatch_attention(
    attend: AttentionFunction,
    shared: Callable[..., Tensor],
    attention: nn.Module,
    group: Group,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
) -> Tensor:
    if attention.training:
        return shared(attend, group, query, key, value, mask)
    return attend(query, key, value, mask)


def _attend_all_gather(
    attend: AttentionFunction, group: Group, query: Tensor, key: Tensor, value: Tensor, rows: ChunkMasks
) -> Tensor:
    part = SequenceShard(group.rank(), group.size(), zigzag=True)
    key, value = part.restore_order(all_gather(torch.stack((key, value)), 3, group), 3)
    chunks = zip(query.chunk(len(rows.masks), 2), rows.masks, strict=True)
    return torch.cat(
        [attend(chunk, key[:, :, :end], value[:, :, :end], mask) for chunk, (end, mask) in chunks], 2
    )


def _attend_ulysses(
    attend: AttentionFunction, group: Group, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask
) -> Tensor:
    """Each rank attends over whole sequences, with its share of the heads."""
    size = group.size()
    repeats = kv_repeats(query.shape[1], key.shape[1], size)
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if mask.dense is not None and mask.dense.shape[1] > 1:
        mask = AttentionMask(dense=mask.dense.chunk(size, 1)[group.rank()])
    query, key, value = (_scatter_heads(x, group) for x in (query, key, value))
    return _gather_heads(attend(query, key, value, mask), group)


def kv_repeats(query_heads: int, key_heads: int, size: int) -> int:
    """How often each key head must be there, so that `size` ranks get equally many."""
    if key_heads % size == 0:
        return 1
    return size // key_heads if size % key_heads == 0 else query_heads // key_heads


def _scatter_heads(x: Tensor, group: Group) -> Tensor:
    """(B, H, T / n, K) -> (B, H / n, T, K)."""
    to = x.unflatten(1, (group.size(), -1)).movedim(1, 0)  # the heads of each rank
    return all_to_all(to, group).movedim(0, 2).flatten(2, 3)  # the part of each rank


def _gather_heads(x: Tensor, group: Group) -> Tensor:
    """(B, H / n, T, K) -> (B, H, T / n, K)."""
    to = x.unflatten(2, (group.size(), -1)).movedim(2, 0)
    return all_to_all(to, group).movedim(0, 1).flatten(1, 2)


def _gather_memory(part: SequenceShard, group: Group, norm: nn.Module, inputs: Any, x: Tensor) -> Tensor:
    """The decoder looks at all of the source, each rank with its own queries."""
    return part.restore_order(all_gather(x, 1, group), 1) if norm.training else x


def _project_memory(
    look_at: Callable[..., Any],
    decoder: nn.Module,
    part: SequenceShard,
    memory: Tensor,
    num_tokens: int,
    documents: Tensor | None,
    decoder_document_ids: Tensor | None,
) -> Any:
    if not decoder.training:
        return look_at(memory, num_tokens, documents, decoder_document_ids)
    own = None if decoder_document_ids is None else part.select(decoder_document_ids, 1)
    return look_at(memory, num_tokens // part.size, documents, own)
