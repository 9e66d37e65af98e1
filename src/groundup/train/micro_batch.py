"""Micro-batch size: the number of sequences in one forward pass, from free memory."""

import torch
from torch import Tensor, nn

from groundup.artifacts.machine import free_system_memory
from groundup.train.objectives import Batch, Objective

DEFAULT_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 8_192}
"""Tokens in one efficient forward pass. CPUs are fastest while activations stay in cache (lab book); accelerators need more."""

MEMORY_FRACTION = 0.8
"""Fraction of the free memory for activations."""


def choose_micro_batch(model: nn.Module, objective: Objective, batch: Batch, device: torch.device) -> int:
    """Number of sequences in each forward pass of `batch`, chosen before the first step.

    A divisor of the batch size if that costs at most half: kernels are compiled for a size. The activations of one
    sequence are measured, because a CPU process out of memory is killed. On an accelerator the engine halves the
    micro-batch on an out-of-memory error, at the cost of a recompilation.
    """
    sequences, length = next(iter(batch.values())).shape[:2]
    size = min(sequences, max(1, DEFAULT_TOKENS[device.type] // length))
    free = free_memory(device)
    if free is not None and size > 1:
        single = {name: rows[:1].to(device) for name, rows in batch.items()}
        budget = MEMORY_FRACTION * (free - grad_and_optimizer_bytes(model))
        size = max(1, min(size, int(budget / max(1, activation_bytes(model, objective, single)))))
    divisor = next(smaller for smaller in range(size, 0, -1) if sequences % smaller == 0)
    return divisor if 2 * divisor >= size else size


def grad_and_optimizer_bytes(model: nn.Module) -> int:
    """Bytes that the first step allocates for gradients and AdamW's two moments."""
    return sum(3 * weight.nbytes for weight in model.parameters() if weight.requires_grad)


def activation_bytes(model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Bytes saved by the forward pass of a batch for the backward pass, without weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would make a reference cycle with its graph

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = objective.loss(model, batch)
    del loss
    return sum(sizes.values())


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still allocate: accelerator memory, or the lower of free system memory and the cgroup limit.
    None if unknown.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_system_memory() if device.type == "cpu" else None
