"""Megatron-Core's own model and optimizer (Narayanan et al. 2021), driven by the one loop.

The recipe's decoder is built as Megatron's GPT model out of its local layers, which need no other package, and starts
from our weights; batches come from our shards. What is Megatron's: the layers, their tensor parallelism, the reduction of
gradients, and the optimizer with its master weights. It computes on CUDA devices alone.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model.output import next_labels
from groundup.plan import layout as layouts
from groundup.recipe.layout import Layout
from groundup.recipe.train import TrainSection
from groundup.train import micro_batch
from groundup.train.engines.megatron_model import View, build, installed
from groundup.train.engines.megatron_state import MegatronState
from groundup.train.engines.ranks import Ranks
from groundup.train.objectives import NEXT_TOKEN, Batch, Objective


class MegatronEngine:
    """Trains what Megatron makes of `model`, a decoder, the same on every rank, which is used up.

    Raises UserError where Megatron-Core is not installed, for what it does not compute, and when the ranks were not given
    the same run.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, settings: TrainSection, machine: Machine, layout: Layout
    ):
        if settings.learning_rate is None:
            raise ValueError("settings are not derived: learning_rate is needed")
        self.settings, self.objective = settings, objective
        self.device = next(model.parameters()).device
        installed()
        if objective is not NEXT_TOKEN:
            raise UserError(
                "train.engine = 'megatron': its model makes its own loss, and this objective is another",
                hint="set train.engine=native",
            )
        self.ranks = Ranks()
        self.ranks.compare_run(settings, layout, model)
        self.main = dist.get_rank() == 0
        layout = layouts.complete(layout, dist.get_world_size())
        config: Any = model.config
        layouts.check(layout, config, settings)
        self.micro_batch = machine.micro_batch
        self._model, self._optimizer = build(model, settings, layout, machine.activation_checkpointing)
        self.module = self._model.module
        self._tensor = layout.tensor
        self.data_rank, self.data_ranks = (
            dist.get_rank() // layout.tensor,
            dist.get_world_size() // layout.tensor,
        )
        self.state = MegatronState(model, self._model, self._optimizer, self.ranks)
        self._view = View(config, self.module)
        from megatron.core.distributed import finalize_model_grads  # type: ignore[import-not-found]

        self._complete = finalize_model_grads
        self.discard()

    def accumulate(self, batch: Batch) -> float:
        self.ranks.compare_data(batch, self.data_rank, self.data_ranks)
        predicted = max(1.0, self.ranks.sum(self.objective.count(batch)) / self._tensor)
        sequences, length = batch["tokens"].shape
        size = self.micro_batch or max(1, micro_batch.TOKENS[self.device.type] // length)
        total = torch.zeros((), device=self.device)
        for begin in range(0, sequences, size):
            piece = {name: rows[begin : begin + size].to(self.device) for name, rows in batch.items()}
            labels = next_labels(piece["labels"])
            losses = self._view.losses(self._model, piece["tokens"], labels)
            loss = (losses * (labels >= 0)).sum() / predicted
            loss.backward()
            total += loss.detach()
        self._complete([self._model])  # over the data ranks, and what the tensor ranks each have a share of
        return self.ranks.sum(total.item() / self._tensor)  # whose ranks all have the same one

    def update(self, share: float) -> float:
        self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if math.isfinite(norm):
            factor = min(1.0, (self.settings.clip_norm or math.inf) / (norm + 1e-6))
            for weight in self._optimizer.get_parameters():
                if weight.grad is not None:
                    weight.grad.mul_(factor)
            for group in self._optimizer.param_groups:
                group["lr"] = share * (self.settings.learning_rate or 0.0)
                group["weight_decay"] = self.settings.weight_decay * group["wd_mult"]
            self._optimizer.step_with_ready_grads()
        self.discard()
        return norm

    def discard(self) -> None:
        self._model.zero_grad_buffer()
        self._optimizer.zero_grad()

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        self._model.eval()
        try:
            yield self._view
        finally:
            self._model.train()

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder)

    def load(self, folder: Path) -> None:
        self.state.load(folder)

    def agree(self, wish: bool) -> bool:
        return self.ranks.any(wish)

    def trained(self) -> nn.Module:
        return self.state.gather()
