"""What the ranks of a run say to each other beside its tensors: that they agree, and that they were given the same run."""

import hashlib
import json
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.objectives import Batch


class SingleProcess:
    """One device that knows of no other."""

    rank, size, control_group, checkpoint_group = 0, 1, None, None

    def any(self, flag: bool, group: None = None) -> bool:
        return flag

    def all_gather_objects(self, value: Any) -> list[Any]:
        return [value]


class Communicator:
    """All ranks of the default process group; making it is collective, and so is every method.

    Attributes:
        rank, size: which one this is, of how many.
        control: a group for words on the CPU, beside the tensors of a step.
        writing: another one, for the thread that writes checkpoints.
    """

    def __init__(self) -> None:
        self.control_group: Any = dist.new_group(backend="gloo")
        self.checkpoint_group: Any = dist.new_group(backend="gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._seen_data = False

    def any(self, flag: bool, group: dist.ProcessGroup | None = None) -> bool:
        """True on all ranks when `flag` is true on one of them."""
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=group or self.control_group)
        return bool(value)

    def all_reduce_sum(self, value: float) -> float:
        """The sum of what the ranks bring."""
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self.control_group)
        return total.item()

    def all_gather_objects(self, value: Any) -> list[Any]:
        """What every rank brings, in the order of the ranks."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, value, group=self.control_group)
        return everyone

    def check_same_run(self, settings: TrainConfig, layout: LayoutConfig, model: nn.Module) -> None:
        """Raises UserError, on all ranks, when they were not given the same run; what differs is named."""
        config = getattr(model, "config", None)
        first = next(model.parameters()).detach().flatten()[:1024].float().cpu()
        mine = {
            "train": settings.model_dump_json(),
            "machine.layout": layout.model_dump_json(),
            "model": config.model_dump_json() if config else "",
            "initial weights": hashlib.sha256(first.numpy().tobytes()).hexdigest(),
        }
        everyone = self.all_gather_objects(mine)
        for name in mine:
            for rank, theirs in enumerate(everyone):
                if theirs[name] != everyone[0][name]:
                    detail = _difference(everyone[0][name], theirs[name])
                    raise UserError(
                        f"rank {rank} has another {name} than rank 0{detail}",
                        hint="set the same recipe and seed on every rank",
                    )

    def check_same_data(self, batch: Batch, data_rank: int, data_world_size: int) -> None:
        """Raises UserError when ranks that share rows were fed different ones; looked at once, in the first step."""
        if self._seen_data:
            return
        self._seen_data = True
        digest = hashlib.sha256(
            b"".join(rows.contiguous().numpy().tobytes() for rows in batch.values())
        ).hexdigest()
        if len(set(self.all_gather_objects((data_rank, digest)))) > data_world_size:
            raise UserError(
                "the ranks read different data: those that share a sequence were given different ones",
                hint="let every rank read the same token shards",
            )


def _difference(one: str, other: str) -> str:
    """The first knob in which two tables differ."""
    try:
        first, second = json.loads(one), json.loads(other)
    except ValueError:
        return ""
    for name in first:
        if first[name] != second.get(name):
            return f": {name} = {second.get(name)}, and there {first[name]}"
    return ""
