"""Control messages between ranks on the CPU: reductions of plain numbers, and checks that all ranks run the same thing.

Tensors of a training step go through collectives.py instead.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.artifacts.differences import list_differences
from groundup.artifacts.errors import UserError
from groundup.parallel.rendezvous import COLLECTIVE_TIMEOUT
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig


class SingleProcess:
    """The communicator of one process without a process group."""

    rank, size, control_group, checkpoint_group = 0, 1, None, None

    def any(self, flag: bool, group: None = None) -> bool:
        return flag

    def broadcast_object(self, value: Any) -> Any:
        return value

    def all_gather_objects(self, value: Any, group: None = None) -> list[Any]:
        return [value]


class Communicator:
    """All ranks of the default process group, over gloo. Construction and every method are collective.

    Attributes:
        control_group: for the training thread.
        checkpoint_group: for the thread that writes checkpoints.
    """

    def __init__(self) -> None:
        self.control_group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
        self.checkpoint_group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._checked_data = False

    def any(self, flag: bool, group: dist.ProcessGroup | None = None) -> bool:
        """Whether `flag` is true on any rank."""
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=group or self.control_group)
        return bool(value)

    def all_reduce_sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self.control_group)
        return total.item()

    def broadcast_object(self, value: Any) -> Any:
        """The value of rank 0."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control_group)
        return values[0]

    def all_gather_objects(self, value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """The values of all ranks, in rank order."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=group or self.control_group)
        return values

    def check_same_run(self, settings: TrainConfig, layout: LayoutConfig, model: nn.Module) -> None:
        """Raises UserError, on all ranks, when recipe, layout or any initial weight differs between ranks."""
        config = getattr(model, "config", None)
        run = {
            "train": settings.model_dump_json(),
            "machine.layout": layout.model_dump_json(),
            "model": config.model_dump_json() if config else "",
            "initial weights": hash_tensors(model.state_dict().values()),
        }
        reference, *others = self.all_gather_objects(run)
        for name in run:
            for rank, other in enumerate(others, start=1):
                if other[name] != reference[name]:
                    raise UserError(
                        f"rank {rank} differs from rank 0 in {name}{_first_difference(reference[name], other[name])}",
                        hint="set the same recipe and seed on every rank",
                    )

    def check_same_data(self, batch: Mapping[str, Tensor], data_rank: int, data_world_size: int) -> None:
        """Raises UserError when ranks of the same `data_rank` have different batches. Only the first call checks."""
        if self._checked_data:
            return
        self._checked_data = True
        digests = set(self.all_gather_objects((data_rank, hash_tensors(batch.values()))))
        if len(digests) > data_world_size:
            raise UserError(
                "ranks that work on the same sequences were given different data",
                hint="let every rank read the same token shards",
            )


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """sha256 of the bytes of all tensors, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_difference(reference: str, other: str) -> str:
    """The first difference between two JSON tables; empty for strings that are not JSON."""
    try:
        lines = list_differences(json.loads(reference), json.loads(other))
    except ValueError:
        return ""
    return f": {lines[0]}" if lines else ""
