"""Being one rank of many: joining the others, and leaving them without a hang."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up."""


def started_with_others() -> bool:
    """Whether a launcher (torchrun, or whatever sets its variables) has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device, patience: timedelta = PATIENCE) -> Iterator[torch.device]:
    """Be a rank for as long as the block runs; gives this rank's device. Alone, it does nothing.

    The process group is taken down whatever happens: a rank that leaves by an error ends the others' waiting, and a
    rank that forgets to leave may abort.
    """
    if not started_with_others() or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # Both, because weights may be kept in the CPU's memory, and ranks speak of other things than tensors.
    dist.init_process_group("cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield device
    finally:
        dist.destroy_process_group()
