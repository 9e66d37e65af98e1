"""Differentiable collectives: the conjugate pairs of Megatron-LM (Shoeybi et al. 2019, figure 3; Korthikanti et al. 2022).

A tensor is *full* when all ranks of the group have the same one; otherwise each rank has a *chunk* along one dimension,
or a *partial* sum.

    function                 forward           backward
    split                    full -> chunk     chunk -> full
    all_gather               chunk -> full     partial -> chunk    ranks use the result for different work
    all_gather_replicated    chunk -> full     full -> chunk       ranks use the result for the same work
    reduce_scatter           partial -> chunk  chunk -> full
    all_reduce               partial -> full   full -> full
    all_reduce_in_backward   full -> full      partial -> full     ranks use the result for different work
    all_to_all               chunk i of rank j <-> chunk j of rank i
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup

# Renamed in PyTorch 2.13.
_torch_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_torch_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def split(x: Tensor, dim: int, group: Group) -> Tensor:
    return _Split.apply(x, dim, group)  # type: ignore[return-value]


def all_gather(x: Tensor, dim: int, group: Group) -> Tensor:
    return _AllGather.apply(x, dim, group)  # type: ignore[return-value]


def all_gather_replicated(x: Tensor, dim: int, group: Group) -> Tensor:
    return _AllGatherReplicated.apply(x, dim, group)  # type: ignore[return-value]


def reduce_scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    return _ReduceScatter.apply(x, dim, group)  # type: ignore[return-value]


def all_reduce(x: Tensor, group: Group) -> Tensor:
    return _AllReduce.apply(x, group)  # type: ignore[return-value]


def all_reduce_in_backward(x: Tensor, group: Group) -> Tensor:
    return _AllReduceInBackward.apply(x, group)  # type: ignore[return-value]


def all_to_all(
    x: Tensor, group: Group, send_counts: list[int] | None = None, receive_counts: list[int] | None = None
) -> Tensor:
    """Send `send_counts[i]` rows of `x` to rank i and receive `receive_counts[i]` from it; default: equal counts."""
    return _AllToAll.apply(x, group, send_counts, receive_counts)  # type: ignore[return-value]


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


def _all_to_all(x: Tensor, group: Group, send_counts: list[int] | None, receive_counts: list[int] | None) -> Tensor:
    rows = x.shape[0] if receive_counts is None else sum(receive_counts)
    out = x.new_empty((rows, *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), receive_counts, send_counts, group=group)
    return out


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return local_chunk(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _all_gather_chunks(grad, ctx.dim, ctx.group), None, None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _all_gather_chunks(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _reduce_scatter_chunks(grad, ctx.dim, ctx.group), None, None


class _AllGatherReplicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _all_gather_chunks(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return local_chunk(grad, ctx.dim, ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _reduce_scatter_chunks(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _all_gather_chunks(grad, ctx.dim, ctx.group), None, None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return _all_reduce_copy(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class _AllReduceInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _all_reduce_copy(grad, ctx.group), None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: Group, send_counts: list[int] | None, receive_counts: list[int] | None
    ) -> Tensor:
        ctx.group, ctx.send_counts, ctx.receive_counts = group, send_counts, receive_counts
        return _all_to_all(x, group, send_counts, receive_counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _all_to_all(grad, ctx.group, ctx.receive_counts, ctx.send_counts), None, None, None
