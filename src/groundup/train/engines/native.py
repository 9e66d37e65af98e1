"""One device: the plain engine, and the one to read first."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import update_balance
from groundup.parallel.recompute import recompute
from groundup.recipe.train import TrainSection
from groundup.train import micro_batch
from groundup.train.average import build_average
from groundup.train.compiling import compile_blocks, compiles, keep_compiled
from groundup.train.engines.ranks import Alone
from groundup.train.engines.state import State
from groundup.train.objectives import Batch, Objective
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.precision import autocast, prepare_weights


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
        self.state = State([model], self.optimizers, self.average, Alone())
        operations = 6.0 * sum(weight.numel() for weight in model.parameters()) * (settings.tokens or 0)
        self._network = model
        if compiles(machine, self.device, operations):
            keep_compiled(machine)
            self._network = compile_blocks(model)

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
                loss = self.objective.loss(self._network, piece) * share
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
        return self.state.save(folder, micro_batch=str(self.micro_batch))

    def load(self, folder: Path) -> None:
        known = self.state.load(folder).get("micro_batch", "None")
        if self.micro_batch is None and known != "None":
            self.micro_batch = int(known)  # another split would round otherwise

    def agree(self, wish: bool) -> bool:
        return wish

    def trained(self) -> nn.Module:
        if self.average is not None:
            self.average.settle()
        return self.module.cpu().eval()

    def _casting(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.settings.precision)
