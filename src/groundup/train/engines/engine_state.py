"""What a run continues from: written by one device or the ranks of any mesh, read by any other, and made whole at the end."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from groundup.artifacts.errors import UserError
from groundup.parallel import Mesh
from groundup.parallel.communicator import Communicator, SingleProcess
from groundup.parallel.module_surgery import trainable_parameters
from groundup.parallel.sharded_checkpoint import (
    TensorShard,
    collect_shards,
    load_into,
    rank_file_path,
    read_checkpoint_metadata,
    read_shapes,
    write_shards,
)
from groundup.train.engines.engine import CorruptCheckpoint
from groundup.train.weight_average import WeightAverage

AVERAGED_UPDATES = "averaged_updates"


class EngineState:
    """One rank's weights, their average and the optimizers' tensors, by the names of the whole model.

    Methods are collective.

    Args:
        models: the model, or the pieces of it that are here.
        mesh: who shares what; None on one device.
    """

    def __init__(
        self,
        models: list[nn.Module],
        optimizers: list[torch.optim.Optimizer],
        average: WeightAverage | None,
        communicator: Communicator | SingleProcess,
        mesh: Mesh | None = None,
    ):
        self._models, self._optimizers, self._average = models, optimizers, average
        self._mesh, self._communicator = mesh, communicator

    def save(self, folder: Path, **metadata: str) -> Callable[[], None]:
        """See Engine.save. `facts` are written beside the tensors."""
        pieces = collect_shards(self._tensors(), self._mesh)
        return write_on_all_ranks(
            pieces,
            rank_file_path(folder, self._communicator.rank, self._communicator.size),
            self._communicator,
            **metadata,
        )

    def load(self, folder: Path) -> dict[str, str]:
        """See Engine.load. Returns the facts that rank 0 wrote."""
        weights = self._weights()
        check_checkpoint(folder, {name: weight.shape for name, weight in weights.items()}, self._communicator)
        for optimizer in self._optimizers:
            _initialize_optimizer_state(optimizer)
        state = self._tensors()
        load_into(folder, state)
        if self._average is not None:
            name = next(iter(self._average.tensors))
            self._average.updates = int(state[f"{name}.{AVERAGED_UPDATES}"])
        return read_checkpoint_metadata(folder)

    def gather_full_model(self, full_model: nn.Module) -> None:
        """Fill `whole`, an empty copy of the model, on rank 0.

        Weights come one by one; no other rank ever has more than one of them whole.
        """
        assert self._mesh is not None
        own = self._weights()
        for name, place in full_model.state_dict().items():
            here = name in own
            owner = torch.tensor(self._mesh.rank("pipeline") if here else -1)
            dist.all_reduce(owner, dist.ReduceOp.MAX, group=self._communicator.control_group)
            weight = _full_tensor(own[name]) if here else torch.empty_like(place, device=self._mesh.device)
            if self._mesh.size("pipeline") > 1:
                group = self._mesh.group("pipeline")
                dist.broadcast(weight, group=group, group_src=int(owner))
            if dist.get_rank() == 0:
                assign_tensor(full_model, name, weight.cpu())

    def _weights(self) -> dict[str, Tensor]:
        """This rank's parts of what learns and what is kept beside it, each once: a tied head is the embedding."""
        state = {}
        for part in self._models:
            state |= dict(trainable_parameters(part))
            kept = part.state_dict().keys()
            state |= {name: buffer for name, buffer in part.named_buffers() if name in kept}
        return state

    def _tensors(self) -> dict[str, Tensor]:
        """The weights, and the optimizer's tensors as `name of the weight.key`."""
        weights = self._weights()
        names = {id(weight): name for name, weight in weights.items()}
        state = dict(weights)
        for optimizer in self._optimizers:
            for weight, tensors in optimizer.state.items():
                state |= {f"{names[id(weight)]}.{key}": value for key, value in tensors.items()}
        if self._average is not None:
            for name, mean in self._average.tensors.items():
                state[f"{name}.average"] = mean
                state[f"{name}.{AVERAGED_UPDATES}"] = torch.tensor(float(self._average.updates))
        return state


def write_on_all_ranks(
    shards: dict[str, TensorShard], path: Path, communicator: Communicator | SingleProcess, **metadata: str
) -> Callable[[], None]:
    """A function, for another thread, that writes this rank's pieces and returns when all ranks have written theirs."""

    def write() -> None:
        failure: OSError | None = None
        try:
            write_shards(shards, path, metadata)
        except OSError as error:
            failure = error
        if communicator.any(failure is not None, communicator.checkpoint_group):
            raise failure or OSError("another rank could not write its part")

    return write


def check_checkpoint(
    folder: Path, shapes: dict[str, torch.Size], communicator: Communicator | SingleProcess
) -> None:
    """Raises Damaged, on all ranks, when the checkpoint in `folder` cannot be read; UserError when it is another's.

    Args:
        shapes: of the whole weights of which this rank has parts.
    """
    missing: Exception | None = None
    found: dict[str, torch.Size] = {}
    try:
        found = read_shapes(folder)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        missing = error
    if communicator.any(missing is not None):
        raise CorruptCheckpoint(f"{folder}: {missing or 'not readable on another rank'}")
    names = set().union(*communicator.all_gather_objects(list(shapes)))
    other = _difference(shapes, found, names)
    if communicator.any(other is not None):
        raise UserError(
            f"{folder}: a checkpoint of another model: {other or 'on another rank'}",
            hint=f"remove {folder.parent} to start anew",
        )


def _difference(shapes: dict[str, torch.Size], found: dict[str, torch.Size], names: set[str]) -> str | None:
    """The first thing in which a checkpoint and this rank's weights differ; `names` are those of all ranks."""
    for name, shape in shapes.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != shape:
            return f"{name} has shape {tuple(found[name])}, expected {tuple(shape)}"
    for name in found:
        if name not in names and name.rpartition(".")[0] not in names:
            return f"{name} is not expected"
    return None


def meta_copy(model: nn.Module) -> nn.Module:
    """The same model without memory for its weights."""
    empty = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, empty)  # type: ignore[arg-type]


def assign_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Give an empty copy one of its weights, or fill one of its buffers."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        own = module.get_parameter(leaf)
        setattr(module, leaf, nn.Parameter(value, requires_grad=own.requires_grad))
    else:
        module.get_buffer(leaf).copy_(value)


def _initialize_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that has not moved yet the tensors that it will have, by a step that moves nothing."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _full_tensor(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight.detach()
