"""Gradients after the backward pass: partial sums over the tensor axis, the global norm, clipping."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from groundup.parallel.mesh import Mesh


def all_reduce_partial_grads(parameters: Iterable[nn.Parameter], mesh: Mesh) -> None:
    """Sum the gradients of replicated parameters that each rank of the tensor axis used for a part of the work."""
    gradients = [_local_grad(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=mesh.group("tensor"))
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def gradient_norm(parameters: Iterable[nn.Parameter], mesh: Mesh) -> Tensor:
    """The norm of the whole model's gradient, in any layout.

    Each rank adds the squares of its chunks, each divided by the number of ranks with the same chunk.
    """
    squares = torch.zeros((), device=mesh.device)
    stages = mesh.size("pipeline")
    for parameter in parameters:
        if parameter.grad is not None:
            copies = dist.get_world_size() // stages // num_shards(parameter)
            squares += _local_grad(parameter.grad).float().square().sum().to(mesh.device) / copies
    dist.all_reduce(squares)
    return squares.sqrt()


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float | None, mesh: Mesh | None = None) -> Tensor:
    """Clip the gradient to `max_norm` (None: never) in place; returns its norm before, over all ranks of `mesh`.

    Without a mesh as torch.nn.utils.clip_grad_norm_.
    """
    parameters, max_norm = list(parameters), math.inf if max_norm is None else max_norm
    if mesh is None:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = gradient_norm(parameters, mesh)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            local_grad = _local_grad(parameter.grad)
            local_grad.mul_(factor.to(local_grad.device))
    return norm


def num_shards(parameter: Tensor) -> int:
    if not isinstance(parameter, DTensor):
        return 1
    sizes = zip(parameter.device_mesh.shape, parameter.placements, strict=True)
    return math.prod(size for size, placement in sizes if not placement.is_replicate())


def _local_grad(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
