"""Differentiable collectives: the conjugate pairs of Megatron-LM (Shoeybi et al. 2019, figure 3; Korthikanti et al. 2022).

A tensor is *full* when all ranks of the group have the same one; otherwise each rank has a *chunk* along one dimension,
or a *partial* sum. Arguments: (x, dim, group), or (x, group) for all_reduce and all_reduce_in_backward.

    function                 forward           backward
    split                    full -> chunk     chunk -> full
    all_gather               chunk -> full     partial -> chunk    ranks use the result for different work
    all_gather_replicated    chunk -> full     full -> chunk       ranks use the result for the same work
    reduce_scatter           partial -> chunk  chunk -> full
    all_reduce               partial -> full   full -> full
    all_reduce_in_backward   full -> full      partial -> full     ranks use the result for different work
    all_to_all               chunk i of rank j <-> chunk j of rank i
"""

from collections.abc import Callable
from typing import Any, ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup
P = ParamSpec("P")

# Renamed in PyTorch 2.13.
_torch_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_torch_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def local_chunk(x: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's chunk of a full tensor. Raises ValueError when the group's size does not divide the dimension."""
    _check_divisible(x, dim, group)
    return x.chunk(group.size(), dim)[group.rank()].contiguous()


def _check_divisible(x: Tensor, dim: int, group: Group) -> None:
    if x.shape[dim] % group.size():
        raise ValueError(f"dimension {dim} of {tuple(x.shape)}: expected a multiple of {group.size()}")


def _all_gather_chunks(x: Tensor, dim: int, group: Group) -> Tensor:
    chunks = x.new_empty((group.size(), *x.shape))
    _torch_all_gather(chunks, x.contiguous()[None], group=group)
    return chunks[0] if group.size() == 1 else torch.cat(chunks.unbind(), dim)


def _reduce_scatter_chunks(x: Tensor, dim: int, group: Group) -> Tensor:
    _check_divisible(x, dim, group)
    stacked = torch.stack(x.chunk(group.size(), dim))
    chunk = x.new_empty(stacked.shape[1:])
    _torch_reduce_scatter(chunk[None], stacked, group=group)
    return chunk


def _all_reduce_copy(x: Tensor, group: Group) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def _exchange(x: Tensor, group: Group, send_counts: list[int] | None, receive_counts: list[int] | None) -> Tensor:
    rows = x.shape[0] if receive_counts is None else sum(receive_counts)
    out = x.new_empty((rows, *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), receive_counts, send_counts, group=group)
    return out


def _differentiable(forward_op: Callable[P, Tensor], backward_op: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """`forward_op(x, *arguments)` whose gradient is `backward_op(gradient, *arguments)`."""

    class Collective(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
            ctx.arguments = arguments
            return forward_op(x, *arguments)  # type: ignore[call-arg]

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            return backward_op(grad, *ctx.arguments), *(None for _ in ctx.arguments)  # type: ignore[call-arg]

    return Collective.apply  # type: ignore[return-value]


split = _differentiable(local_chunk, _all_gather_chunks)
all_gather = _differentiable(_all_gather_chunks, _reduce_scatter_chunks)
all_gather_replicated = _differentiable(_all_gather_chunks, local_chunk)
reduce_scatter = _differentiable(_reduce_scatter_chunks, _all_gather_chunks)
all_reduce = _differentiable(_all_reduce_copy, lambda x, group: x)
all_reduce_in_backward = _differentiable(lambda x, group: x.view_as(x), _all_reduce_copy)
_all_to_all = _differentiable(
    _exchange, lambda x, group, send_counts, receive_counts: _exchange(x, group, receive_counts, send_counts)
)


def all_to_all(
    x: Tensor, group: Group, send_counts: list[int] | None = None, receive_counts: list[int] | None = None
) -> Tensor:
    """Send `send_counts[i]` rows of `x` to rank i and receive `receive_counts[i]` from it; default: equal counts."""
    return _all_to_all(x, group, send_counts, receive_counts)
