"""One device: the plain engine, and the one to read first."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import update_balance
from groundup.parallel.recompute import recompute
from groundup.recipe.train import TrainSection
from groundup.train import micro_batch
from groundup.train.average import build_average
from groundup.train.compiling import compiles, keep_compiled
from groundup.train.engines.engine import Damaged
from groundup.train.objectives import Batch, Objective
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.precision import autocast, prepare_weights

WEIGHTS, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"


class NativeEngine:
    """Trains what of `model` is trainable, in place, on the device where it is."""

    main = True
    data_rank, data_ranks = 0, 1

    def __init__(self, model: nn.Module, objective: Objective, settings: TrainSection, machine: Machine):
        if settings.learning_rate is None:
            raise ValueError("settings are not derived: learning_rate is needed")
        self.module, self.objective, self.settings = model.train(), objective, settings
        self.device = next(model.parameters()).device
        self.micro_batch = machine.micro_batch
        prepare_weights(model, settings.precision, self.device)
        recompute(model, machine.activation_checkpointing)
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizers = build_optimizers(model, settings, settings.learning_rate)
        self.average = build_average(self.weights, settings)
        operations = 6.0 * sum(weight.numel() for weight in model.parameters()) * (settings.tokens or 0)
        if compiles(machine, self.device, operations):
            keep_compiled(machine)
            model.compile()

    def accumulate(self, batch: Batch) -> float:
        if self.micro_batch is None:
            with self._casting():
                self.micro_batch = micro_batch.choose(self.module, self.objective, batch, self.device)
        while True:
            try:
                return self._accumulate(batch, self.micro_batch)
            except torch.OutOfMemoryError as error:
                self._halve(error)

    def _accumulate(self, batch: Batch, size: int) -> float:
        predicted = max(1, self.objective.count(batch))
        total = torch.zeros((), device=self.device)
        for begin in range(0, len(next(iter(batch.values()))), size):
            piece = {name: rows[begin : begin + size] for name, rows in batch.items()}
            share = self.objective.count(piece) / predicted
            piece = {name: rows.to(self.device, non_blocking=True) for name, rows in piece.items()}
            with self._casting():
                loss = self.objective.loss(self.module, piece) * share
            loss.backward()
            total += loss.detach()
        return total.item()

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        """Smaller pieces of the same batch, from its beginning."""
        self.discard()
        if self.micro_batch == 1:
            raise UserError(
                f"one sequence needs more memory than {self.device} has: {str(error).splitlines()[0]}",
                hint="set machine.activation_checkpointing=full, or a smaller train.sequence_length",
            ) from None
        self.micro_batch = max(1, (self.micro_batch or 1) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def update(self, share: float) -> float:
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip_norm or math.inf).item()
        if math.isfinite(norm):
            set_learning_rate(self.optimizers, share)
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            update_balance(self.module)
        self.discard()
        return norm

    def discard(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        self.module.eval()
        try:
            with self.average.in_place() if self.average else nullcontext(), self._casting():
                yield self.module
        finally:
            self.module.train()

    def save(self, folder: Path) -> Callable[[], None]:
        files = {WEIGHTS: _copied(self.weights), OPTIMIZER: _copied(self._optimizer_tensors())}
        facts = {"micro_batch": str(self.micro_batch)}
        if self.average is not None:
            files[AVERAGE] = _copied(self.average.tensors)
            facts["averaged_updates"] = str(self.average.updates)

        def write() -> None:
            for name, tensors in files.items():
                try:
                    save_file(tensors, folder / name, metadata=facts)
                except SafetensorError as error:
                    raise OSError(str(error)) from error

        return write

    def load(self, folder: Path) -> None:
        try:
            weights, optimizer = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
            average = load_file(folder / AVERAGE) if self.average else {}
            with safe_open(folder / WEIGHTS, "pt") as file:
                facts = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{folder}: {error}") from error
        if (what := _difference(self.weights, weights)) is not None:
            raise UserError(
                f"{folder}: a checkpoint of another model: {what}",
                hint=f"remove {folder.parent} to start anew",
            )
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])
        self._restore_optimizers(optimizer)
        if self.average is not None:
            self.average.updates = int(facts.get("averaged_updates", 0))
            for name, mean in self.average.tensors.items():
                mean.copy_(average[name])
        if self.micro_batch is None and facts.get("micro_batch", "None") != "None":
            self.micro_batch = int(facts["micro_batch"])  # another split would round otherwise

    def agree(self, wish: bool) -> bool:
        return wish

    def trained(self) -> nn.Module:
        if self.average is not None:
            self.average.settle()
        return self.module.cpu().eval()

    def _casting(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.settings.precision)

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the optimizers' states, named after its weight."""
        names = {id(weight): name for name, weight in self.weights.items()}
        return {
            f"{names[id(weight)]}:{key}": value
            for optimizer in self.optimizers
            for weight, state in optimizer.state.items()
            for key, value in state.items()
        }

    def _restore_optimizers(self, tensors: dict[str, Tensor]) -> None:
        """Put the states back as they were: the optimizers' own way would change their dtypes to the weights'."""
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            weight, key = name.rsplit(":", 1)
            states.setdefault(weight, {})[key] = tensor.to(self.device)
        names = {id(weight): name for name, weight in self.weights.items()}
        for optimizer in self.optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    if state := states.get(names[id(weight)]):
                        optimizer.state[weight] = state


def _difference(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first thing in which two sets of weights differ, but for their values."""
    for name in sorted(own.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in own:
            return f"{name} is not expected"
        if own[name].shape != found[name].shape:
            return f"{name} has shape {tuple(found[name].shape)}, expected {tuple(own[name].shape)}"
    return None


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which later steps do not change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
