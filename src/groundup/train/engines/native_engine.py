"""Training engine for a single device; the one to read first."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.module_surgery import trainable_parameters
from groundup.recipe.train_config import TrainConfig
from groundup.train.compilation import compile_blocks
from groundup.train.engines.base_engine import TorchEngine
from groundup.train.engines.engine_state import EngineState
from groundup.train.micro_batch import choose_micro_batch
from groundup.train.mixed_precision import autocast, prepare_weights
from groundup.train.objectives import Batch, Objective
from groundup.train.optimizer import build_optimizers
from groundup.train.weight_average import build_weight_average


class NativeEngine(TorchEngine):
    """Trains the trainable parameters of `model` in place, on its device."""

    def __init__(self, model: nn.Module, objective: Objective, settings: TrainConfig, machine: Machine):
        super().__init__(model, objective, settings, machine)
        self.module, self.model_parts = model.train(), [model]
        prepare_weights(model, settings.precision, self.device)
        apply_activation_checkpointing(model, machine.activation_checkpointing)
        weights = dict(trainable_parameters(model))
        self.parameters = list(weights.values())
        self._micro_batch_tokens = 0
        """Of a size that was chosen here; shorter batches have larger micro-batches. 0: the size is given."""
        self.optimizers = build_optimizers(model, settings, self.learning_rate)
        self.average = build_weight_average(weights, settings)
        self.state = EngineState([model], self.optimizers, self.average, self.communicator)
        self._compiled_model = compile_blocks(model) if self.should_compile(model, machine) else model

    def forward_backward(self, batch: Batch) -> float:
        if self.objective.prepare is not None:
            with self.eval_model() as model:
                batch = self.objective.prepare(model, batch)
        sequences, length = next(iter(batch.values())).shape[:2]
        if self.micro_batch_size is None:
            with self._autocast():
                self.micro_batch_size = choose_micro_batch(self.module, self.objective, batch, self.device)
            self._micro_batch_tokens = self.micro_batch_size * length
        num_targets = self.objective.count(batch)
        while True:
            size = max(1, self._micro_batch_tokens // length) if self._micro_batch_tokens else self.micro_batch_size
            size = min(size, sequences)
            try:
                return self.accumulate(batch, size, num_targets, self._micro_step).item()
            except torch.OutOfMemoryError as error:
                self._halve_micro_batch(size, length, error)

    def _micro_step(self, micro_batch: Batch, weight: float, is_last: bool) -> Tensor:
        with self._autocast():
            loss = self.objective.loss(self._compiled_model, micro_batch) * weight
        loss.backward()
        return loss

    def _halve_micro_batch(self, size: int, length: int, error: torch.OutOfMemoryError) -> None:
        """Halve micro-batches of `size` sequences of `length` tokens, which were too large; the batch starts again."""
        self.zero_grad()
        if size == 1:
            raise UserError(
                f"one sequence needs more memory than {self.device} has: {str(error).splitlines()[0]}",
                hint="set machine.activation_checkpointing=full, or a smaller train.sequence_length",
            ) from None
        self.micro_batch_size = size // 2
        if self._micro_batch_tokens:
            self._micro_batch_tokens = self.micro_batch_size * length
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        self.module.eval()
        try:
            with self.average.applied() if self.average else nullcontext(), self._autocast():
                yield self.module
        finally:
            self.module.train()

    eval_replica = eval_model

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(
            folder, micro_batch_size=str(self.micro_batch_size), micro_batch_tokens=str(self._micro_batch_tokens)
        )

    def load(self, folder: Path) -> None:
        values = self.state.load(folder)
        saved = values.get("micro_batch_size", "None")
        if self.micro_batch_size is None and saved != "None":
            self.micro_batch_size = int(saved)  # another size would change rounding
            self._micro_batch_tokens = int(values.get("micro_batch_tokens", "0"))

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.settings.precision)
