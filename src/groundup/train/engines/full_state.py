"""Checkpoint state of engines with partitions of their own (DeepSpeed, Megatron): full tensors, one at a time.

The file format is that of every other layout (parallel/sharded_checkpoint.py), so such a run can continue under another
engine and the other way round. AdamW's tensors have PyTorch's names.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.parallel.communicator import Communicator
from groundup.parallel.sharded_checkpoint import TensorShard, load_into, rank_file_path
from groundup.train.engines.engine_state import write_on_all_ranks

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's tensors of each weight, beside `step`."""


class FullTensorState:
    """Base class: `save` from an iterator over the full tensors."""

    communicator: Communicator

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of the whole state, in the same order on every rank."""
        raise NotImplementedError

    def save(self, folder: Path, **metadata: str) -> Callable[[], None]:
        """See Engine.save. Rank r writes tensors r, r + world_size, ..."""
        rank, world_size = dist.get_rank(), dist.get_world_size()
        shards = {}
        for index, (name, tensor) in enumerate(self.full_tensors()):
            if index % world_size == rank:
                copy = tensor.detach().to("cpu", copy=True).contiguous()
                shards[name] = TensorShard(copy, (0,) * tensor.ndim)
        path = rank_file_path(folder, rank, world_size)
        return write_on_all_ranks(shards, path, self.communicator, **metadata)


def read_full_tensors(folder: Path, shapes: Mapping[str, torch.Size]) -> dict[str, dict[str, Tensor]]:
    """Weights and AdamW's tensors as {"": {name: tensor}, "exp_avg": ..., "exp_avg_sq": ..., "step": ...}, on the CPU."""
    tensors: dict[str, dict[str, Tensor]] = {
        key: {name: torch.empty(shape) for name, shape in shapes.items()} for key in ("", *ADAM_MOMENTS)
    }
    tensors["step"] = {name: torch.zeros(()) for name in shapes}
    load_into(
        folder, {name + (key and f".{key}"): tensor for key, group in tensors.items() for name, tensor in group.items()}
    )
    return tensors
