"""Checkpoints of engines whose partitions are their own: put together a whole tensor at a time, and written in turn.

The files are those of any other layout (parallel/storage.py), so such a run goes on under another engine, and the other
way round. AdamW's tensors are named as PyTorch names them.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.parallel.storage import PieceOf, rank_file, read_into
from groundup.train.engines.ranks import Ranks
from groundup.train.engines.state import write_by_all

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for every weight, beside `step`."""


def save_whole(tensors: Iterable[tuple[str, Tensor]], folder: Path, ranks: Ranks) -> Callable[[], None]:
    """See Engine.save. `tensors` come whole, in the same order on every rank; each rank writes every so-manieth."""
    rank, count = dist.get_rank(), dist.get_world_size()
    pieces = {}
    for number, (name, tensor) in enumerate(tensors):
        if number % count == rank:
            pieces[name] = PieceOf(tensor.detach().to("cpu", copy=True).contiguous(), (0,) * tensor.ndim)
    return write_by_all(pieces, rank_file(folder, rank, count), ranks)


def read_whole(folder: Path, shapes: Mapping[str, torch.Size]) -> dict[str, dict[str, Tensor]]:
    """Weights and AdamW's tensors as {"": {name: tensor}, "exp_avg": ..., "exp_avg_sq": ..., "step": ...}, on the CPU."""
    found: dict[str, dict[str, Tensor]] = {
        key: {name: torch.empty(shape) for name, shape in shapes.items()} for key in ("", *MOMENTS)
    }
    found["step"] = {name: torch.zeros(()) for name in shapes}
    read_into(
        folder, {name + (key and f".{key}"): t for key, part in found.items() for name, t in part.items()}
    )
    return found
