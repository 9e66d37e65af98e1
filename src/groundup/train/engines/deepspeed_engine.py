"""Training engine on DeepSpeed's ZeRO (Rajbhandari et al. 2020): stages 1, 2 and 3, and CPU offload.

DeepSpeed computes the step; the loop controls it. The optimizer is the recipe's AdamW over DeepSpeed's flat partitions,
gradients are summed instead of averaged, and checkpoints have our format (deepspeed_state.py).
"""

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.artifacts.machine import Machine
from groundup.model.moe import reset_expert_load, update_expert_bias
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.expert_parallel import balance_over_groups
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.base_engine import BaseEngine, import_engine
from groundup.train.engines.build_lock import use_build_lock
from groundup.train.engines.deepspeed_state import DeepSpeedState
from groundup.train.engines.engine_state import meta_copy
from groundup.train.objectives import Batch, Objective, model_loss
from groundup.train.optimizer import build_optimizers, set_learning_rate


class ForwardProxy(nn.Module):
    """The module that DeepSpeed wraps: calls any function on the model with its weights gathered."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, use: Callable[..., Any], *arguments: Any) -> Any:
        return use(self.model, *arguments)


class DeepSpeedEngine(BaseEngine):
    """Trains `model`, identical on every rank and consumed. Needs a process group, also for a single rank.

    Raises UserError if DeepSpeed is not installed, for unsupported layouts, or ranks with different settings.
    """

    state: DeepSpeedState

    def __init__(
        self, model: nn.Module, objective: Objective, settings: TrainConfig, machine: Machine, layout: LayoutConfig
    ):
        deepspeed = import_deepspeed(next(model.parameters()).device)
        super().__init__(model, objective, settings, machine, layout)
        apply_activation_checkpointing(model, machine.activation_checkpointing)
        full_model = meta_copy(model)
        if self.data_world_size > 1:
            balance_over_groups(model, [dist.group.WORLD])  # type: ignore[list-item]
        half = settings.precision == "bfloat16"
        unrounded = {name: weight.detach().clone() for name, weight in model.named_parameters()} if half else {}
        (optimizer,) = build_optimizers(model, settings, self.learning_rate)
        with redirect_stdout(sys.stderr):  # build messages
            self._engine, *_ = deepspeed.initialize(
                model=ForwardProxy(model.train()),
                optimizer=optimizer,
                config=deepspeed_config(settings, self.layout, self.device),
                dist_init_required=False,
            )
        self.module = model
        self.state = DeepSpeedState(model, full_model, deepspeed, self._engine, self.communicator)
        self._initialize_optimizer()
        if half:
            self.state.set_weights(unrounded)  # master weights: DeepSpeed starts from rounded ones

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        num_targets = self.communicator.all_reduce_sum(self.objective.count(batch))
        size = self.default_micro_batch_size(next(iter(batch.values())).shape[1])
        return self.communicator.all_reduce_sum(self.accumulate(batch, size, num_targets, self._micro_step).item())

    def _micro_step(self, micro_batch: Batch, weight: float, is_last: bool) -> Tensor:
        self._engine.set_gradient_accumulation_boundary(is_last)
        loss = self._engine(self.objective.loss, micro_batch) * weight
        self._backward(loss)
        return loss

    def _backward(self, loss: Tensor) -> None:
        """Backward pass; DeepSpeed divides gradients by the number of ranks, but ours are to be summed."""
        self._engine.backward(loss * self.data_world_size, scale_wrt_gas=False)

    def optimizer_step(self, lr_multiplier: float) -> float:
        set_learning_rate([self._engine.optimizer], lr_multiplier)
        self._engine.step()  # skipped by DeepSpeed if the norm is not finite
        norm = float(self._engine.get_global_grad_norm())
        if math.isfinite(norm):
            update_expert_bias(self.module)
        reset_expert_load(self.module)
        return norm

    def zero_grad(self) -> None:
        for weight in self.module.parameters():
            weight.grad = None
        self._engine.optimizer.zero_grad()
        reset_expert_load(self.module)

    @contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        names = [
            name for name in ("forward", "hidden_states", "logits", "embed", "encode") if hasattr(self.module, name)
        ]
        overrides = {name: self.module.__dict__[name] for name in names if name in self.module.__dict__}
        for name in names:
            setattr(self.module, name, self._through_engine(getattr(self.module, name)))
        self._engine.eval()
        try:
            yield self.module
        finally:
            for name in names:
                del self.module.__dict__[name]
            self.module.__dict__.update(overrides)
            self._engine.train()

    def _through_engine(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return self._engine.module(lambda model: method(*arguments, **named))

        return call

    def _initialize_optimizer(self) -> None:
        """Allocate the optimizer's state by a step without effect, so that it can be saved and loaded."""
        tokens = torch.zeros(1, 8, dtype=torch.long, device=self.device)
        self._engine.set_gradient_accumulation_boundary(True)
        self._backward(self._engine(model_loss, {"tokens": tokens, "labels": tokens}) * 0.0)
        reset_expert_load(self.module)
        self.optimizer_step(0.0)
        optimizer = self._engine.optimizer
        if hasattr(optimizer, "_hp_optimizer_states_linked"):
            # ZeRO-1 and 2 link weights to their moments once, after the first group: link again.
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()
        self.state.set_step(torch.zeros(()))


def deepspeed_config(settings: TrainConfig, layout: LayoutConfig, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration dictionary."""
    target = {"device": "cpu", "pin_memory": device.type != "cpu"}
    zero: dict[str, Any] = {"stage": layout.zero_stage or 3, "overlap_comm": device.type != "cpu"}
    if layout.cpu_offload != "none":
        zero["offload_optimizer"] = target
    if layout.cpu_offload == "all":
        zero["offload_param"] = target
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": settings.precision == "bfloat16"},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": settings.max_grad_norm or math.inf,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,  # the engine sets the boundary; 1 would turn accumulation off
        "zero_force_ds_cpu_optimizer": False,  # PyTorch's AdamW is fused too and needs no C++ compiler
        "steps_per_print": None,
    }


def import_deepspeed(device: torch.device) -> Any:
    """The deepspeed module, with warnings and logs silenced. Raises UserError if it is not installed."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    deepspeed = import_engine("deepspeed", "deepspeed")
    use_build_lock()
    # DeepSpeed calls deprecated collectives.
    warnings.filterwarnings("ignore", message=r".*(all_gather_into|reduce_scatter)_tensor", category=FutureWarning)
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)  # stdout is for results
    return deepspeed
