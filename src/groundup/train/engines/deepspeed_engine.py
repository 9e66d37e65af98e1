"""DeepSpeed's ZeRO (Rajbhandari et al. 2020) in place of PyTorch's own sharding: stages 1, 2 and 3, and offload to the CPU.

DeepSpeed computes a step; when, on what and what is kept of it stays the loop's. Its optimizer is the recipe's AdamW over
its flat partitions, its gradients are summed and not averaged, and its checkpoints are ours (deepspeed_state.py).
"""

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.communicator import Communicator
from groundup.plan import parallel_layout as layouts
from groundup.plan.engine_support import ENGINE_PACKAGES, check_engine_installed
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train import micro_batch
from groundup.train.engines.deepspeed_state import DeepSpeedState
from groundup.train.objectives import Batch, Objective, model_loss
from groundup.train.optimizer import build_optimizers, set_learning_rate


class ForwardProxy(nn.Module):
    """The module that DeepSpeed wraps: a pass through it may use the model in any way, and finds its weights gathered."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, use: Callable[..., Any], *arguments: Any) -> Any:
        return use(self.model, *arguments)


class DeepSpeedEngine:
    """Trains `model`, the same on every rank, which is used up. Needs a process group, be it of one rank.

    Raises UserError where DeepSpeed is not installed, for a layout it does not do, and when the ranks were not given the
    same run.
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
        deepspeed = import_deepspeed(self.device)
        self.communicator = Communicator()
        self.communicator.check_same_run(settings, layout, model)
        self.is_main = dist.get_rank() == 0
        self.data_rank, self.data_world_size = dist.get_rank(), dist.get_world_size()
        layout = layouts.complete_layout(layout, self.data_world_size)
        if config := getattr(model, "config", None):
            layouts.check_layout(layout, config, settings)
        self.micro_batch = machine.micro_batch_size
        apply_activation_checkpointing(model, machine.activation_checkpointing)
        half = settings.precision == "bfloat16"
        exact = {name: weight.detach().clone() for name, weight in model.named_parameters()} if half else {}
        (optimizer,) = build_optimizers(model, settings, settings.learning_rate)
        with redirect_stdout(sys.stderr):  # it builds a part of itself, and says so
            self._engine, *_ = deepspeed.initialize(
                model=ForwardProxy(model.train()),
                optimizer=optimizer,
                config=deepspeed_config(settings, layout, self.device),
                dist_init_required=False,
            )
        self.module = model
        self.state = DeepSpeedState(model, deepspeed, self._engine, self.communicator)
        self._initialize_optimizer()
        if half:
            self.state.set_weights(exact)  # DeepSpeed makes master weights of rounded ones

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        predicted = max(1.0, self.communicator.all_reduce_sum(self.objective.count(batch)))
        sequences, length = next(iter(batch.values())).shape[:2]
        size = self.micro_batch or max(1, micro_batch.DEFAULT_TOKENS[self.device.type] // length)
        total = torch.zeros((), device=self.device)
        for begin in range(0, sequences, size):
            piece = {name: rows[begin : begin + size] for name, rows in batch.items()}
            share = self.objective.count(piece) / predicted
            piece = {name: rows.to(self.device, non_blocking=True) for name, rows in piece.items()}
            self._engine.set_gradient_accumulation_boundary(begin + size >= sequences)
            loss = self._engine(self.objective.loss, piece) * share
            self._backward(loss)
            total += loss.detach()
        return self.communicator.all_reduce_sum(total.item())

    def _backward(self, loss: Tensor) -> None:
        """DeepSpeed divides gradients by the number of ranks; shares of one mean are to be summed."""
        self._engine.backward(loss * self.data_world_size, scale_wrt_gas=False)

    def optimizer_step(self, lr_multiplier: float) -> float:
        set_learning_rate([self._engine.optimizer], lr_multiplier)
        self._engine.step()  # which moves nothing where the norm is not finite
        return float(self._engine.get_global_grad_norm())

    def zero_grad(self) -> None:
        for weight in self.module.parameters():
            weight.grad = None
        self._engine.optimizer.zero_grad()

    @contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        names = [
            name
            for name in ("forward", "hidden_states", "logits", "embed", "encode")
            if hasattr(self.module, name)
        ]
        own = {name: self.module.__dict__[name] for name in names if name in self.module.__dict__}
        for name in names:
            setattr(self.module, name, self._through_engine(getattr(self.module, name)))
        self._engine.eval()
        try:
            yield self.module
        finally:
            for name in names:
                del self.module.__dict__[name]
            self.module.__dict__.update(own)
            self._engine.train()

    def _through_engine(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return self._engine.module(lambda model: method(*arguments, **named))

        return call

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder)

    def load(self, folder: Path) -> None:
        self.state.load(folder)

    def any_rank(self, flag: bool) -> bool:
        return self.communicator.any(flag)

    def finalize(self) -> nn.Module:
        return self.state.gather_full_model()

    def _initialize_optimizer(self) -> None:
        """Let the optimizer make its tensors, by a step that moves nothing: a state can then be saved and loaded."""
        nothing = torch.zeros(1, 8, dtype=torch.long, device=self.device)
        self._engine.set_gradient_accumulation_boundary(True)
        self._backward(self._engine(model_loss, {"tokens": nothing, "labels": nothing}) * 0.0)
        self.optimizer_step(0.0)
        optimizer = self._engine.optimizer
        if hasattr(optimizer, "_hp_optimizer_states_linked"):
            # ZeRO-1 and 2 link weights to their moments once, when the first group has moved and the others have none.
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()
        self.state.set_step(torch.zeros(()))


def deepspeed_config(settings: TrainConfig, layout: LayoutConfig, device: torch.device) -> dict[str, Any]:
    """What DeepSpeed is told: its own names for what the recipe says."""
    place = {"device": "cpu", "pin_memory": device.type != "cpu"}
    zero: dict[str, Any] = {"stage": layout.zero_stage or 3, "overlap_comm": device.type != "cpu"}
    if layout.cpu_offload != "none":
        zero["offload_optimizer"] = place
    if layout.cpu_offload == "all":
        zero["offload_param"] = place
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": settings.precision == "bfloat16"},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": settings.max_grad_norm or math.inf,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,  # any number but one: passes are counted here, and one would not be added up
        "zero_force_ds_cpu_optimizer": False,  # PyTorch's own is as fused, and needs no compiler at run time
        "steps_per_print": None,
    }


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, for this device, and quiet. Raises UserError where it is not installed."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    check_engine_installed("deepspeed")
    try:
        import deepspeed  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"train.engine = 'deepspeed': DeepSpeed cannot be imported here: {error}",
            hint=ENGINE_PACKAGES["deepspeed"][2],
        ) from None
    # It calls collectives of PyTorch by their old names.
    warnings.filterwarnings(
        "ignore", message=r".*(all_gather_into|reduce_scatter)_tensor", category=FutureWarning
    )
    said = logging.getLogger("DeepSpeed")
    said.setLevel(logging.WARNING)
    for handler in said.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)  # results alone go to stdout
    return deepspeed
