"""Checkpoint state of the PyTorch engines: weights, optimizer tensors and weight average, by full-model names.

Written by a single device or the ranks of any mesh, readable by any other.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.parallel import Mesh
from groundup.parallel.communicator import Communicator, SingleProcess
from groundup.parallel.module_surgery import trainable_parameters
from groundup.parallel.sharded_checkpoint import (
    TensorShard,
    check_hashes,
    collect_shards,
    load_into,
    rank_file_path,
    read_checkpoint_metadata,
    read_shapes,
    write_hashes,
    write_shards,
)
from groundup.train.engines.engine import CorruptCheckpoint
from groundup.train.weight_average import WeightAverage

AVERAGED_UPDATES = "averaged_updates"


class EngineState:
    """The state of one rank. Methods are collective.

    Args:
        models: the model, or this rank's pipeline stages of it.
        mesh: the device mesh; None on a single device.
        full_model: with a mesh, a copy of the model on the meta device, which `gather_full_model` fills.
    """

    def __init__(
        self,
        models: list[nn.Module],
        optimizers: list[torch.optim.Optimizer],
        average: WeightAverage | None,
        communicator: Communicator | SingleProcess,
        mesh: Mesh | None = None,
        full_model: nn.Module | None = None,
    ):
        self._models, self._optimizers, self._average = models, optimizers, average
        self._mesh, self._communicator, self._full_model = mesh, communicator, full_model

    def save(self, folder: Path, **metadata: str) -> Callable[[], None]:
        """See Engine.save. `metadata` is stored in the header of each file."""
        path = rank_file_path(folder, self._communicator.rank, self._communicator.size)
        shards = collect_shards(self._tensors(), self._mesh)
        return write_on_all_ranks(shards, path, self._communicator, **metadata)

    def load(self, folder: Path) -> dict[str, str]:
        """See Engine.load. Returns the metadata that rank 0 wrote."""
        weights = self._weights()
        check_checkpoint(folder, {name: weight.shape for name, weight in weights.items()}, self._communicator)
        for optimizer in self._optimizers:
            _initialize_optimizer_state(optimizer)
        state = self._tensors()
        load_into(folder, state)
        for name, values, key in self._optimizer_entries():
            if not isinstance(values[key], Tensor):
                values[key] = type(values[key])(state[name].item())
        if self._average is not None:
            name = next(iter(self._average.tensors))
            self._average.updates = int(state[f"{name}.{AVERAGED_UPDATES}"])
        return read_checkpoint_metadata(folder)

    def gather_full_model(self) -> nn.Module:
        """The full model on the CPU; filled on rank 0 only, one weight at a time."""
        if self._mesh is None or self._full_model is None:
            return self._models[0].cpu().eval()
        full_weights: dict[str, Tensor] = {}
        weights = {name: weight for part in self._models for name, weight in part.named_parameters()} | self._weights()
        for name, target in self._full_model.state_dict().items():
            is_local = name in weights
            owner = torch.tensor(self._mesh.rank("pipeline") if is_local else -1)
            dist.all_reduce(owner, dist.ReduceOp.MAX, group=self._communicator.control_group)
            device = self._mesh.device
            weight = _full_tensor(weights[name]) if is_local else torch.empty_like(target, device=device)
            if self._mesh.size("pipeline") > 1:
                dist.broadcast(weight, group=self._mesh.group("pipeline"), group_src=int(owner))
            if dist.get_rank() == 0:
                full_weights[name] = weight.cpu()
        self._full_model.load_state_dict(full_weights, strict=False, assign=True)
        return self._full_model.eval()

    def _weights(self) -> dict[str, Tensor]:
        """This rank's trainable parameters and persistent buffers; tied weights once."""
        state = {}
        for part in self._models:
            state |= dict(trainable_parameters(part))
            persistent = part.state_dict().keys()
            state |= {name: buffer for name, buffer in part.named_buffers() if name in persistent}
        return state

    def _optimizer_entries(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """(`weight name.key`, the optimizer's state of that weight, key)."""
        names = {id(weight): name for name, weight in self._weights().items()}
        for optimizer in self._optimizers:
            for weight, values in optimizer.state.items():
                keys = [key for key, value in values.items() if isinstance(value, Tensor | int | float)]
                yield from ((f"{names[id(weight)]}.{key}", values, key) for key in keys)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors to save or load; optimizer values that are plain numbers as tensors."""
        state = dict(self._weights())
        for name, values, key in self._optimizer_entries():
            value, is_float = values[key], isinstance(values[key], float)
            state[name] = torch.tensor(value, dtype=torch.float64) if is_float else torch.as_tensor(value)
        if self._average is not None:
            for name, mean in self._average.tensors.items():
                state[f"{name}.average"] = mean
                state[f"{name}.{AVERAGED_UPDATES}"] = torch.tensor(float(self._average.updates))
        return state


def write_on_all_ranks(
    shards: dict[str, TensorShard], path: Path, communicator: Communicator | SingleProcess, **metadata: str
) -> Callable[[], None]:
    """A function for the checkpoint thread: writes the shards of this rank, returns when all ranks have written."""

    def write() -> None:
        failure: OSError | None = None
        sha256 = ""
        try:
            write_shards(shards, path, metadata)
            sha256 = hash_file(path)  # from the page cache; safetensors writes the file itself
        except OSError as error:
            failure = error
        hashes = dict(communicator.all_gather_objects((path.name, sha256), communicator.checkpoint_group))
        if not all(hashes.values()):
            raise failure or OSError("another rank could not write its checkpoint file")
        if communicator.rank == 0:
            write_hashes(path.parent, hashes)

    return write


def check_checkpoint(folder: Path, shapes: dict[str, torch.Size], communicator: Communicator | SingleProcess) -> None:
    """Raises CorruptCheckpoint, on all ranks, if a file has not the content that was written; UserError for other shapes.

    Args:
        shapes: full shapes of the weights that this rank has or has shards of.
    """
    failure: str | None = None
    saved: dict[str, torch.Size] = {}
    try:
        check_hashes(folder, communicator.rank, communicator.size)
        saved = read_shapes(folder)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        failure = str(error)
    if failures := [text for text in communicator.all_gather_objects(failure) if text is not None]:
        raise CorruptCheckpoint(failures[0])
    names = set().union(*communicator.all_gather_objects(list(shapes)))
    difference = _difference(shapes, saved, names)
    if communicator.any(difference is not None):
        raise UserError(
            f"{folder}: a checkpoint of another model: {difference or 'on another rank'}",
            hint=f"remove {folder.parent} to start anew",
        )


def _difference(shapes: dict[str, torch.Size], saved: dict[str, torch.Size], names: set[str]) -> str | None:
    """The first difference between a checkpoint and the weights of this rank; `names`: the weights of all ranks."""
    for name, shape in shapes.items():
        if name not in saved:
            return f"{name} is missing"
        if saved[name] != shape:
            return f"{name} has shape {tuple(saved[name])}, expected {tuple(shape)}"
    for name in saved:
        if name not in names and name.rpartition(".")[0] not in names:
            return f"{name} is not expected"
    return None


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of the model on the meta device, but for buffers that are not in its state."""
    empty: dict[int, Tensor] = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    stored = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers():
        if name in stored:
            empty[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, empty)  # type: ignore[arg-type]


def _initialize_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Make a new optimizer allocate its state, by a step with zero gradients and learning rate 0."""
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
