"""Training engine on Megatron-Core's model and optimizer (Narayanan et al. 2021); CUDA only.

The recipe's decoder is built as Megatron's GPT model from its local layers, which need no further package, and starts from
our weights. Megatron's part is the layers, tensor parallelism, gradient reduction, and the optimizer with master weights.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model.head import shift_labels
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.base_engine import BaseEngine
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
        self._tensor_size = self.layout.tensor
        self.data_rank //= self._tensor_size
        self.data_world_size //= self._tensor_size
        self.state = MegatronState(model, self._model, self._optimizer, self.communicator)
        self._adapter = MegatronAdapter(model.config, self.module)  # type: ignore[arg-type]
        from megatron.core.distributed import finalize_model_grads  # type: ignore[import-not-found]

        self._finalize_grads = finalize_model_grads
        self.zero_grad()

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        num_targets = self.communicator.all_reduce_sum(self.objective.count(batch)) / self._tensor_size
        size = self.default_micro_batch_size(batch["tokens"].shape[1])
        total = self.accumulate(batch, size, num_targets, self._micro_step).item()
        self._finalize_grads([self._model])  # all-reduce over data ranks, and partial gradients over tensor ranks
        return self.communicator.all_reduce_sum(total / self._tensor_size)  # equal on all tensor ranks

    def _micro_step(self, micro_batch: Batch, weight: float, is_last: bool) -> Tensor:
        labels = shift_labels(micro_batch["labels"])
        losses = self._adapter.losses(self._model, micro_batch["tokens"], labels)
        loss = (losses * (labels >= 0)).sum() / max(1, self.objective.count(micro_batch)) * weight
        loss.backward()
        return loss

    def optimizer_step(self, lr_multiplier: float) -> float:
        self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if math.isfinite(norm):
            factor = min(1.0, (self.settings.max_grad_norm or math.inf) / (norm + 1e-6))
            for weight in self._optimizer.get_parameters():
                if weight.grad is not None:
                    weight.grad.mul_(factor)
            for group in self._optimizer.param_groups:
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
