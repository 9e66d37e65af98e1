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
from groundup.model.model_output import shift_labels
from groundup.parallel.communicator import Communicator
from groundup.plan import parallel_layout as layouts
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train import micro_batch
from groundup.train.engines.megatron_model import MegatronAdapter, build_megatron, check_megatron
from groundup.train.engines.megatron_state import MegatronState
from groundup.train.objectives import NEXT_TOKEN, Batch, Objective


class MegatronEngine:
    """Trains what Megatron makes of `model`, a decoder, the same on every rank, which is used up.

    Raises UserError where Megatron-Core is not installed, for what it does not compute, and when the ranks were not given
    the same run.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        settings: TrainConfig,
        machine: Machine,
        layout: LayoutConfig,
    ):
        if settings.learning_rate is None:
            raise ValueError("settings are not derived: learning_rate is needed")
        self.settings, self.objective = settings, objective
        self.device = next(model.parameters()).device
        check_megatron()
        if objective is not NEXT_TOKEN:
            raise UserError(
                "train.engine = 'megatron': its model makes its own loss, and this objective is another",
                hint="set train.engine=native",
            )
        self.communicator = Communicator()
        self.communicator.check_same_run(settings, layout, model)
        self.is_main = dist.get_rank() == 0
        layout = layouts.complete_layout(layout, dist.get_world_size())
        config: Any = model.config
        layouts.check_layout(layout, config, settings)
        self.micro_batch = machine.micro_batch_size
        self._model, self._optimizer = build_megatron(
            model, settings, layout, machine.activation_checkpointing
        )
        self.module = self._model.module
        self._tensor_size = layout.tensor
        self.data_rank, self.data_world_size = (
            dist.get_rank() // layout.tensor,
            dist.get_world_size() // layout.tensor,
        )
        self.state = MegatronState(model, self._model, self._optimizer, self.communicator)
        self._adapter = MegatronAdapter(config, self.module)
        from megatron.core.distributed import finalize_model_grads  # type: ignore[import-not-found]

        self._finalize_grads = finalize_model_grads
        self.zero_grad()

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        predicted = max(
            1.0, self.communicator.all_reduce_sum(self.objective.count(batch)) / self._tensor_size
        )
        sequences, length = batch["tokens"].shape
        size = self.micro_batch or max(1, micro_batch.DEFAULT_TOKENS[self.device.type] // length)
        total = torch.zeros((), device=self.device)
        for begin in range(0, sequences, size):
            piece = {name: rows[begin : begin + size].to(self.device) for name, rows in batch.items()}
            labels = shift_labels(piece["labels"])
            losses = self._adapter.losses(self._model, piece["tokens"], labels)
            loss = (losses * (labels >= 0)).sum() / predicted
            loss.backward()
            total += loss.detach()
        self._finalize_grads(
            [self._model]
        )  # over the data ranks, and what the tensor ranks each have a share of
        return self.communicator.all_reduce_sum(
            total.item() / self._tensor_size
        )  # whose ranks all have the same one

    def optimizer_step(self, lr_multiplier: float) -> float:
        self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if math.isfinite(norm):
            factor = min(1.0, (self.settings.max_grad_norm or math.inf) / (norm + 1e-6))
            for weight in self._optimizer.get_parameters():
                if weight.grad is not None:
                    weight.grad.mul_(factor)
            for group in self._optimizer.param_groups:
                group["lr"] = lr_multiplier * (self.settings.learning_rate or 0.0)
                group["weight_decay"] = self.settings.weight_decay * group["wd_mult"]
            self._optimizer.step_with_ready_grads()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        self._model.zero_grad_buffer()
        self._optimizer.zero_grad()

    @contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        self._model.eval()
        try:
            yield self._adapter
        finally:
            self._model.train()

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder)

    def load(self, folder: Path) -> None:
        self.state.load(folder)

    def any_rank(self, flag: bool) -> bool:
        return self.communicator.any(flag)

    def finalize(self) -> nn.Module:
        return self.state.gather_full_model()
