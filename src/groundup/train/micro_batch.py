"""How many sequences go through the model at one time: as many as are quick, and as few as memory asks for."""

from pathlib import Path

import torch
from torch import Tensor, nn

from groundup.train.objectives import Batch, Objective

TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 8_192}
"""Tokens in one forward pass that are quick. A CPU is quickest while activations stay in its cache (lab book); an
accelerator wants to be filled."""

ROOM = 0.8
"""Share of the free memory that activations may take."""


def choose(model: nn.Module, objective: Objective, batch: Batch, device: torch.device) -> int:
    """Sequences of `batch` for one pass, before anything was tried.

    On a CPU too many would not be refused but kill the process, so one sequence is measured. An accelerator refuses,
    and the engine then halves.
    """
    sequences, length = next(iter(batch.values())).shape[:2]
    quick = min(sequences, max(1, TOKENS[device.type] // length))
    free = free_memory() if device.type == "cpu" else None
    if free is None or quick == 1:
        return quick
    one = {name: rows[:1] for name, rows in batch.items()}
    return max(1, min(quick, int(ROOM * free / max(1, kept_bytes(model, objective, one)))))


def kept_bytes(model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it, for ever

    # Not compiled: it would be for a batch of this size, and then again for any size.
    eagerly = torch.compiler.set_stance("force_eager")
    with eagerly, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective.loss(model, batch)
    del loss
    return sum(sizes.values())


def free_memory() -> int | None:
    """Bytes that this process may still take: what the system has, and what its control group leaves."""
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
