"""One device: the plain engine, and the one to read first."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.recipe.train import TrainSection
from groundup.train.engines.engine import Damaged
from groundup.train.objectives import Batch, Objective
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.precision import autocast

MICRO_BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 8_192}
"""Tokens in one forward pass where the machine does not say. A CPU is quickest while activations stay in its cache
(lab book); an accelerator wants to be filled."""

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


class NativeEngine:
    """Trains what of `model` is trainable, in place, on the device where it is."""

    main = True
    data_rank, data_ranks = 0, 1

    def __init__(self, model: nn.Module, objective: Objective, settings: TrainSection, machine: Machine):
        if settings.learning_rate is None:
            raise ValueError("settings are not derived: learning_rate is needed")
        self.module, self.objective = model.train(), objective
        self.settings, self.micro_batch = settings, machine.micro_batch
        self.device = next(model.parameters()).device
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizers = build_optimizers(model, settings, settings.learning_rate)

    def accumulate(self, batch: Batch) -> float:
        sequences, length = next(iter(batch.values())).shape[:2]
        size = self.micro_batch or max(1, MICRO_BATCH_TOKENS[self.device.type] // length)
        predicted = max(1, self.objective.count(batch))
        total = torch.zeros((), device=self.device)
        for begin in range(0, sequences, size):
            piece = {name: rows[begin : begin + size] for name, rows in batch.items()}
            share = self.objective.count(piece) / predicted
            piece = {name: rows.to(self.device, non_blocking=True) for name, rows in piece.items()}
            with autocast(self.device, self.settings.precision):
                loss = self.objective.loss(self.module, piece) * share
            loss.backward()
            total += loss.detach()
        return total.item()

    def update(self, share: float) -> float:
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf).item()
        if math.isfinite(norm):
            set_learning_rate(self.optimizers, share)
            for optimizer in self.optimizers:
                optimizer.step()
        self.discard()
        return norm

    def discard(self) -> None:
        for weight in self.parameters:
            weight.grad = None

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        self.module.eval()
        try:
            with autocast(self.device, self.settings.precision):
                yield self.module
        finally:
            self.module.train()

    def save(self, folder: Path) -> Callable[[], None]:
        weights, optimizer = _copied(self._weights()), _copied(self._optimizer_tensors())

        def write() -> None:
            save_file(weights, folder / WEIGHTS)
            save_file(optimizer, folder / OPTIMIZER)

        return write

    def load(self, folder: Path) -> None:
        try:
            weights, optimizer = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{folder}: {error}") from error
        own = self._weights()
        if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
            raise UserError(
                f"{folder}: a checkpoint of another model", hint=f"remove {folder.parent} to start anew"
            )
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(weights[name])
        self._restore_optimizers(optimizer)

    def agree(self, wish: bool) -> bool:
        return wish

    def trained(self) -> nn.Module:
        return self.module.cpu().eval()

    def _weights(self) -> dict[str, Tensor]:
        """Trainable weights by name, each once: a tied head is the embedding."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the optimizers' states, named `optimizer.parameter.key`."""
        return {
            f"{number}.{parameter}.{key}": value
            for number, optimizer in enumerate(self.optimizers)
            for parameter, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }

    def _restore_optimizers(self, tensors: dict[str, Tensor]) -> None:
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.optimizers]
        for name, tensor in tensors.items():
            number, parameter, key = name.split(".", 2)
            states[int(number)].setdefault(int(parameter), {})[key] = tensor
        for optimizer, state in zip(self.optimizers, states, strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which later steps do not change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
