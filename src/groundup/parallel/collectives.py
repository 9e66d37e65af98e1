"""What ranks say to each other inside a forward pass, and what the backward pass says in return.

A tensor that is the same on all ranks of a group is *whole*; otherwise each rank holds its *part* along one dimension,
or a *share* of a sum. Each function turns one into another, and its backward pass turns the gradient back: the pairs
of Megatron-LM (Shoeybi et al. 2019, figure 3; Korthikanti et al. 2022, figure 5).

    split     whole -> part     backward: part  -> whole    the gradient of a part is a part
    join      part  -> whole    backward: whole -> part     what follows is the same work on all ranks
    gather    part  -> whole    backward: share -> part     what follows is different work on each rank
    scatter   share -> part     backward: part  -> whole
    spread    whole -> whole    backward: share -> whole    what follows is different work on each rank
    total     share -> whole    backward: whole -> whole
    exchange  part i of rank j <-> part j of rank i
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup

# The names that PyTorch 2.13 gave them, and those from before.
_torch_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_torch_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def split(x: Tensor, dim: int, group: Group) -> Tensor:
    return _Split.apply(x, dim, group)  # type: ignore[return-value]


def all_gather_replicated(x: Tensor, dim: int, group: Group) -> Tensor:
    return _AllGatherReplicated.apply(x, dim, group)  # type: ignore[return-value]


def all_gather(x: Tensor, dim: int, group: Group) -> Tensor:
    return _AllGather.apply(x, dim, group)  # type: ignore[return-value]


def reduce_scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    return _ReduceScatter.apply(x, dim, group)  # type: ignore[return-value]


def all_reduce_in_backward(x: Tensor, group: Group) -> Tensor:
    return _AllReduceInBackward.apply(x, group)  # type: ignore[return-value]


def all_reduce(x: Tensor, group: Group) -> Tensor:
    return _AllReduce.apply(x, group)  # type: ignore[return-value]


def all_to_all(
    x: Tensor, group: Group, send_counts: list[int] | None = None, receive_counts: list[int] | None = None
) -> Tensor:
    """Rows of `x` to the ranks of the group in turn: `sent[i]` of them to rank i, which sends `received[i]` back.

    Without counts, equally many to each.
    """
    return _AllToAll.apply(x, group, send_counts, receive_counts)  # type: ignore[return-value]


def local_chunk(x: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's part of a whole tensor."""
    if x.shape[dim] % group.size():
        raise ValueError(f"dimension {dim} of {tuple(x.shape)}: expected a multiple of {group.size()}")
    return x.chunk(group.size(), dim)[group.rank()].contiguous()


def _all_gather_chunks(x: Tensor, dim: int, group: Group) -> Tensor:
    """All ranks' parts, one behind the other."""
    parts = x.new_empty((group.size(), *x.shape))
    _torch_all_gather(parts, x.contiguous()[None], group=group)
    return parts[0] if group.size() == 1 else torch.cat(parts.unbind(), dim)


def _reduce_scatter_chunks(x: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's part of the sum of all ranks' tensors."""
    if x.shape[dim] % group.size():
        raise ValueError(f"dimension {dim} of {tuple(x.shape)}: expected a multiple of {group.size()}")
    stacked = torch.stack(x.chunk(group.size(), dim))
    part = x.new_empty(stacked.shape[1:])
    _torch_reduce_scatter(part[None], stacked, group=group)
    return part


def _all_reduce_copy(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' tensors."""
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return local_chunk(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _all_gather_chunks(grad, ctx.dim, ctx.group), None, None


class _AllGatherReplicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _all_gather_chunks(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return local_chunk(grad, ctx.dim, ctx.group), None, None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _all_gather_chunks(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _reduce_scatter_chunks(grad, ctx.dim, ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _reduce_scatter_chunks(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _all_gather_chunks(grad, ctx.dim, ctx.group), None, None


class _AllReduceInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _all_reduce_copy(grad, ctx.group), None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return _all_reduce_copy(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: Group, sent: list[int] | None, received: list[int] | None
    ) -> Tensor:
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return _all_to_all(x, group, sent, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _all_to_all(grad, ctx.group, ctx.received, ctx.sent), None, None, None


def _all_to_all(x: Tensor, group: Group, sent: list[int] | None, received: list[int] | None) -> Tensor:
    rows = x.shape[0] if received is None else sum(received)
    out = x.new_empty((rows, *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
    return out
