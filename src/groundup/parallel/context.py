"""Context parallelism: the devices of the context axis share each sequence.

Everything but attention works token by token, so a rank needs its own tokens only. In attention a query must see the
keys of other ranks:

    all-gather    every rank gets all keys and values (Llama 3, section 3.3.2). Rank r of n holds the chunks r and
                  2n - 1 - r of 2n, so that under a causal mask all ranks have equal work.
    ulysses       ranks exchange their parts of the sequence for heads, and back (Jacobs et al. 2023)
    ring          keys and values go round, one part at a time; see ring.py

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
from groundup.model.attention import Attend, Attention, View
from groundup.model.encoder_decoder import EncoderDecoder
from groundup.model.loss import IGNORE
from groundup.model.mask import Mask, build_mask
from groundup.model.rope import Rotation
from groundup.model.sight import RelativeSight
from groundup.parallel.collectives import Group, exchange, gather
from groundup.parallel.mesh import Mesh
from groundup.parallel.parts import Elsewhere, blocks, override, stacks
from groundup.parallel.ring import RingMask, attend_around


@dataclass(frozen=True)
class Part:
    """Which tokens of a sequence a rank holds: one chunk, or two that balance each other."""

    rank: int
    size: int
    folded: bool

    @property
    def chunks(self) -> int:
        """Into how many a sequence is cut."""
        return 2 * self.size if self.folded else self.size

    def slices(self, length: int) -> list[slice]:
        """The places of this rank's chunks. Raises UserError for a length that cannot be cut evenly."""
        if length % self.chunks:
            raise UserError(
                f"a sequence of {length} tokens over machine.layout.context = {self.size}: "
                f"expected a multiple of {self.chunks}",
                hint="set train.sequence_length to one",
            )
        size = length // self.chunks
        numbers = (self.rank, self.chunks - 1 - self.rank) if self.folded else (self.rank,)
        return [slice(number * size, (number + 1) * size) for number in numbers]

    def of(self, x: Tensor, dim: int) -> Tensor:
        """This rank's tokens of all."""
        own = [x.narrow(dim, rows.start, rows.stop - rows.start) for rows in self.slices(x.shape[dim])]
        return torch.cat(own, dim)

    def in_order(self, x: Tensor, dim: int) -> Tensor:
        """All ranks' tokens, as they come one rank behind the other, in the order of the sequence."""
        if not self.folded:
            return x
        chunks = x.chunk(self.chunks, dim)
        return torch.cat([*chunks[::2], *reversed(chunks[1::2])], dim)


@dataclass(frozen=True)
class Rows:
    """In place of a mask: for each chunk of queries, up to which key it may look, and the mask over those keys."""

    masks: Sequence[tuple[int, Mask]]


def share_sequences(model: nn.Module, mesh: Mesh) -> None:
    """Let every rank of the context axis work on its part of each sequence."""
    method, group = mesh.layout.context_method, mesh.group("context")
    part = Part(group.rank(), group.size(), folded=method == "all-gather")
    attend = {"all-gather": _attend_gathered, "ulysses": _attend_exchanged, "ring": attend_around}[method]
    masks = {
        "all-gather": _rows,
        "ring": _ring_mask,
    }  # Ulysses attends over whole sequences: the model's own mask
    model.embedding.register_forward_pre_hook(partial(_take_tokens, part))  # type: ignore[union-attr]
    for stack in stacks(model):
        for sight in stack.sights.values():
            if method in masks:
                override(sight, "mask", _mask, sight.mask, masks[method], sight, part)
            override(sight, "forward", _see, sight.forward, sight, part)
    for block in blocks(model):
        for attention in block.children():
            if isinstance(attention, Attention):
                override(attention, "attend", _attend, attention.attend, attend, attention, group)
    if isinstance(model, EncoderDecoder):
        model.encoder.final_norm.register_forward_hook(partial(_gather_memory, part, group))
        override(model.decoder, "look_at", _look_at, model.decoder.look_at, model.decoder, part)
    head: Any = model.head
    if not isinstance(head, Elsewhere):
        override(head, "loss", _loss, head.loss, head, part)


def _take_tokens(part: Part, embedding: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if not embedding.training:
        return inputs
    return tuple(part.of(x, -1) if isinstance(x, Tensor) else x for x in inputs)


def _loss(
    loss: Callable[..., Tensor],
    head: nn.Module,
    part: Part,
    hidden: Tensor,
    labels: Tensor,
    z_loss: float = 0.0,
) -> Tensor:
    """The mean of this over the ranks is the loss over all tokens."""
    if not head.training:
        return loss(hidden, labels, z_loss)
    own = part.of(labels, 1)
    share = (own != IGNORE).sum() * part.size / (labels != IGNORE).sum().clamp(min=1)
    return loss(hidden, own, z_loss) * share


def _see(forward: Callable[..., View], sight: nn.Module, part: Part, *inputs: Any) -> View:
    mask, rotation = forward(*inputs)
    if not sight.training:
        return View(mask, rotation)
    if isinstance(sight, RelativeSight) and part.folded:
        assert mask.dense is not None
        length = mask.dense.shape[-1]
        rows: Any = Rows([(length, Mask(dense=mask.dense[..., own, :])) for own in part.slices(length)])
        return View(rows, rotation)
    if rotation is not None:
        rotation = Rotation(*(part.of(turn, -2) for turn in rotation))
    return View(mask, rotation)


def _mask(
    mask: Callable[..., Mask],
    own_mask: Callable[..., Any],
    sight: nn.Module,
    part: Part,
    positions: Tensor,
    documents: Tensor | None,
    cache: Any,
) -> Any:
    if sight.training:
        return own_mask(sight, part, positions, documents)
    return mask(positions, documents, cache)


def _rows(sight: Any, part: Part, positions: Tensor, documents: Tensor | None) -> Rows:
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
            documents=None if documents is None else documents[:, own],
            key_documents=None if documents is None else documents[:, :end],
            first=own.start,
        )
        masks.append((end, mask))
    return Rows(masks)


def _ring_mask(sight: Any, part: Part, positions: Tensor, documents: Tensor | None) -> RingMask:
    return RingMask(sight.causal, sight.window, documents)


def _attend(
    attend: Attend,
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


def _attend_gathered(
    attend: Attend, group: Group, query: Tensor, key: Tensor, value: Tensor, rows: Rows
) -> Tensor:
    part = Part(group.rank(), group.size(), folded=True)
    key, value = part.in_order(gather(torch.stack((key, value)), 3, group), 3)
    chunks = zip(query.chunk(len(rows.masks), 2), rows.masks, strict=True)
    return torch.cat(
        [attend(chunk, key[:, :, :end], value[:, :, :end], mask) for chunk, (end, mask) in chunks], 2
    )


def _attend_exchanged(
    attend: Attend, group: Group, query: Tensor, key: Tensor, value: Tensor, mask: Mask
) -> Tensor:
    """Each rank attends over whole sequences, with its share of the heads."""
    size = group.size()
    repeats = key_repeats(query.shape[1], key.shape[1], size)
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if mask.dense is not None and mask.dense.shape[1] > 1:
        mask = Mask(dense=mask.dense.chunk(size, 1)[group.rank()])
    query, key, value = (_heads_for_sequence(x, group) for x in (query, key, value))
    return _sequence_for_heads(attend(query, key, value, mask), group)


def key_repeats(query_heads: int, key_heads: int, size: int) -> int:
    """How often each key head must be there, so that `size` ranks get equally many."""
    if key_heads % size == 0:
        return 1
    return size // key_heads if size % key_heads == 0 else query_heads // key_heads


def _heads_for_sequence(x: Tensor, group: Group) -> Tensor:
    """(B, H, T / n, K) -> (B, H / n, T, K)."""
    to = x.unflatten(1, (group.size(), -1)).movedim(1, 0)  # the heads of each rank
    return exchange(to, group).movedim(0, 2).flatten(2, 3)  # the part of each rank


def _sequence_for_heads(x: Tensor, group: Group) -> Tensor:
    """(B, H / n, T, K) -> (B, H, T / n, K)."""
    to = x.unflatten(2, (group.size(), -1)).movedim(2, 0)
    return exchange(to, group).movedim(0, 1).flatten(1, 2)


def _gather_memory(part: Part, group: Group, norm: nn.Module, inputs: Any, x: Tensor) -> Tensor:
    """The decoder looks at all of the source, each rank with its own queries."""
    return part.in_order(gather(x, 1, group), 1) if norm.training else x


def _look_at(
    look_at: Callable[..., Any],
    decoder: nn.Module,
    part: Part,
    memory: Tensor,
    num_tokens: int,
    documents: Tensor | None,
    decoder_documents: Tensor | None,
) -> Any:
    if not decoder.training:
        return look_at(memory, num_tokens, documents, decoder_documents)
    own = None if decoder_documents is None else part.of(decoder_documents, 1)
    return look_at(memory, num_tokens // part.size, documents, own)
