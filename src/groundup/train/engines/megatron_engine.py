"""Training engine on Megatron-Core's model and optimizer (Narayanan et al. 2021); CUDA only.

The recipe's decoder is built as Megatron's GPT model from its local layers, which need no further package, and starts from
our weights. Megatron's part is the layers, tensor, pipeline and expert parallelism with its schedules, gradient reduction, and
the optimizer with master weights.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model.head import shift_labels
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.base_engine import BaseEngine, split_batch
from groundup.train.engines.megatron_model import MegatronAdapter, build_megatron, check_megatron
from groundup.train.engines.megatron_state import MegatronState
from groundup.train.objectives import NEXT_TOKEN, Batch, Objective


class MegatronEngine(BaseEngine):
    """Trains a Megatron model made of `model`, a decoder that is identical on every rank and consumed.

    Raises UserError if Megatron-Core is not installed, for unsupported settings, or ranks with different settings.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, settings: TrainConfig, machine: Machine, layout: LayoutConfig
    ):
        check_megatron()
        if objective is not NEXT_TOKEN:
            raise UserError(
                "train.engine = 'megatron' trains on next tokens only, not with another objective or train.z_loss",
                hint="set train.engine=native",
            )
        super().__init__(model, objective, settings, machine, layout)
        self._model, self._optimizer = build_megatron(model, settings, self.layout, machine.activation_checkpointing)
        self.module = self._model.module
        self.state = MegatronState(model, self._model, self._optimizer, self.communicator)
        self._adapter = MegatronAdapter(model.config, self.module)  # type: ignore[arg-type]
        from megatron.core import parallel_state  # type: ignore[import-not-found]
        from megatron.core.distributed import finalize_model_grads  # type: ignore[import-not-found]
        from megatron.core.pipeline_parallel import get_forward_backward_func  # type: ignore[import-not-found]

        self.data_rank = parallel_state.get_data_parallel_rank()
        self.data_world_size = parallel_state.get_data_parallel_world_size()
        self._finalize_grads, self._run_schedule = finalize_model_grads, get_forward_backward_func()
        self.zero_grad()

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        num_targets = self.communicator.all_reduce_sum(self.objective.count(batch))
        num_targets *= self.data_world_size / self.communicator.size
        size = self.even_micro_batch_size(batch)
        micro_batches = split_batch(self._to_device(batch), size)
        length = batch["tokens"].shape[1]

        def forward_step(iterator: Iterator[Batch], model: nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
            micro_batch = next(iterator)
            labels = shift_labels(micro_batch["labels"])

            def loss_of(losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                loss = (losses * (labels >= 0)).sum() / max(1.0, num_targets)
                return loss, torch.zeros((), dtype=torch.int, device=loss.device), loss.detach()

            return self._adapter.losses(model, micro_batch["tokens"], labels), loss_of

        losses = self._run_schedule(
            forward_step_func=forward_step, data_iterator=iter(micro_batches), model=[self._model],
            num_microbatches=len(micro_batches), seq_length=length, micro_batch_size=size,
        )  # fmt: skip
        self._finalize_grads([self._model])  # all-reduce over data ranks, and partial gradients over tensor ranks
        return self.communicator.all_reduce_sum(float(sum(losses)) / self.layout.tensor)  # equal on all tensor ranks

    def optimizer_step(self, lr_multiplier: float) -> float:
        self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if math.isfinite(norm):
            factor = min(1.0, (self.settings.max_grad_norm or math.inf) / (norm + 1e-6))
            for group in self._optimizer.param_groups:
                for weight in group["params"]:
                    if weight.grad is not None:
                        weight.grad.mul_(factor)
                group["lr"] = lr_multiplier * self.learning_rate
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
