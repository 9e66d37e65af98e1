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
from groundup.model import update_expert_bias
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.communicator import SingleProcess
from groundup.recipe.train_config import TrainConfig
from groundup.train import micro_batch
from groundup.train.compilation import compile_blocks, enable_compile_cache, should_compile
from groundup.train.engines.engine_state import EngineState
from groundup.train.mixed_precision import autocast, prepare_weights
from groundup.train.objectives import Batch, Objective
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.weight_average import build_weight_average


class NativeEngine:
    """Trains what of `model` is trainable, in place, on the device where it is."""

    is_main = True
    data_rank, data_world_size = 0, 1

    def __init__(self, model: nn.Module, objective: Objective, settings: TrainConfig, machine: Machine):
        if settings.learning_rate is None:
            raise ValueError("settings are not derived: learning_rate is needed")
        self.module, self.objective, self.settings = model.train(), objective, settings
        self.device = next(model.parameters()).device
        self.micro_batch = machine.micro_batch_size
        prepare_weights(model, settings.precision, self.device)
        apply_activation_checkpointing(model, machine.activation_checkpointing)
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizers = build_optimizers(model, settings, settings.learning_rate)
        self.average = build_weight_average(self.weights, settings)
        self.state = EngineState([model], self.optimizers, self.average, SingleProcess())
        operations = 6.0 * sum(weight.numel() for weight in model.parameters()) * (settings.tokens or 0)
        self._compiled_model = model
        if should_compile(machine, self.device, operations):
            enable_compile_cache(machine)
            self._compiled_model = compile_blocks(model)

    def forward_backward(self, batch: Batch) -> float:
        if self.micro_batch is None:
            with self._autocast():
                self.micro_batch = micro_batch.choose_micro_batch(
                    self.module, self.objective, batch, self.device
                )
        while True:
            try:
                return self._forward_backward(batch, self.micro_batch)
            except torch.OutOfMemoryError as error:
                self._halve_micro_batch(error)

    def _forward_backward(self, batch: Batch, size: int) -> float:
        predicted = max(1, self.objective.count(batch))
        total = torch.zeros((), device=self.device)
        for begin in range(0, len(next(iter(batch.values()))), size):
            piece = {name: rows[begin : begin + size] for name, rows in batch.items()}
            share = self.objective.count(piece) / predicted
            piece = {name: rows.to(self.device, non_blocking=True) for name, rows in piece.items()}
            with self._autocast():
                loss = self.objective.loss(self._compiled_model, piece) * share
            loss.backward()
            total += loss.detach()
        return total.item()

    def _halve_micro_batch(self, error: torch.OutOfMemoryError) -> None:
        """Smaller pieces of the same batch, from its beginning."""
        self.zero_grad()
        if self.micro_batch == 1:
            raise UserError(
                f"one sequence needs more memory than {self.device} has: {str(error).splitlines()[0]}",
                hint="set machine.activation_checkpointing=full, or a smaller train.sequence_length",
            ) from None
        self.micro_batch = max(1, (self.micro_batch or 1) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def optimizer_step(self, lr_multiplier: float) -> float:
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_grad_norm or math.inf).item()
        if math.isfinite(norm):
            set_learning_rate(self.optimizers, lr_multiplier)
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            update_expert_bias(self.module)
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    @contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        self.module.eval()
        try:
            with self.average.applied() if self.average else nullcontext(), self._autocast():
                yield self.module
        finally:
            self.module.train()

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder, micro_batch=str(self.micro_batch))

    def load(self, folder: Path) -> None:
        known = self.state.load(folder).get("micro_batch", "None")
        if self.micro_batch is None and known != "None":
            self.micro_batch = int(known)  # another split would round otherwise

    def any_rank(self, flag: bool) -> bool:
        return flag

    def finalize(self) -> nn.Module:
        if self.average is not None:
            self.average.copy_to_model()
        return self.module.cpu().eval()

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.settings.precision)
