"""CheckpointManager of engines whose partitions are their own: put together a whole tensor at a time, and written in turn.

The files are those of any other layout (parallel/sharded_checkpoint.py), so such a run goes on under another engine, and the
other way round. AdamW's tensors are named as PyTorch names them.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.parallel.communicator import Communicator
from groundup.parallel.sharded_checkpoint import TensorShard, load_into, rank_file_path
from groundup.train.engines.engine_state import write_on_all_ranks

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for every weight, beside `step`."""


def save_full_tensors(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, communicator: Communicator
) -> Callable[[], None]:
    """See Engine.save. `tensors` come whole, in the same order on every rank; each rank writes every so-manieth."""
    rank, count = dist.get_rank(), dist.get_world_size()
    pieces = {}
    for number, (name, tensor) in enumerate(tensors):
        if number % count == rank:
            pieces[name] = TensorShard(tensor.detach().to("cpu", copy=True).contiguous(), (0,) * tensor.ndim)
    return write_on_all_ranks(pieces, rank_file_path(folder, rank, count), communicator)


def read_full_tensors(folder: Path, shapes: Mapping[str, torch.Size]) -> dict[str, dict[str, Tensor]]:
    """Weights and AdamW's tensors as {"": {name: tensor}, "exp_avg": ..., "exp_avg_sq": ..., "step": ...}, on the CPU."""
    found: dict[str, dict[str, Tensor]] = {
        key: {name: torch.empty(shape) for name, shape in shapes.items()} for key in ("", *ADAM_MOMENTS)
    }
    found["step"] = {name: torch.zeros(()) for name in shapes}
    load_into(
        folder, {name + (key and f".{key}"): t for key, part in found.items() for name, t in part.items()}
    )
    return found
