"""How many sequences go through the model at one time: as many as are quick, and as few as memory asks for."""

from pathlib import Path

import torch
from torch import Tensor, nn

from groundup.train.objectives import Batch, Objective

DEFAULT_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 8_192}
"""Tokens in one forward pass that are quick. A CPU is quickest while activations stay in its cache (lab book); an
accelerator wants to be filled."""

MEMORY_FRACTION = 0.8
"""Share of the free memory that activations may take."""


def choose_micro_batch(model: nn.Module, objective: Objective, batch: Batch, device: torch.device) -> int:
    """Sequences of `batch` for one pass, before the first step.

    All passes of a step have this size if that costs no more than half of what fits: kernels are made for a size. One
    sequence is measured, because on a CPU too many would not be refused but kill the process. An accelerator
    refuses, and the engine then halves; but what was compiled is compiled again.
    """
    sequences, length = next(iter(batch.values())).shape[:2]
    size = min(sequences, max(1, DEFAULT_TOKENS[device.type] // length))
    free = free_memory(device)
    if free is not None and size > 1:
        one = {name: rows[:1].to(device) for name, rows in batch.items()}
        room = MEMORY_FRACTION * (free - grad_and_optimizer_bytes(model))
        size = max(1, min(size, int(room / max(1, activation_bytes(model, objective, one)))))
    even = next(smaller for smaller in range(size, 0, -1) if sequences % smaller == 0)
    return even if 2 * even >= size else size


def grad_and_optimizer_bytes(model: nn.Module) -> int:
    """Bytes that the first step will take and keep: gradients, and two moments of AdamW."""
    return sum(3 * weight.nbytes for weight in model.parameters() if weight.requires_grad)


def activation_bytes(model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it, for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective.loss(model, batch)
    del loss
    return sum(sizes.values())


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take: of an accelerator's memory, or of what the system and the control group
    leave it. None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return min(found, default=None)
