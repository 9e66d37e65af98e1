"""Many devices: one rank of a mesh, whose layout changes nothing but where things are computed."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import update_expert_bias
from groundup.parallel import Mesh, build_mesh, parallelize
from groundup.parallel.communicator import Communicator
from groundup.parallel.gradients import all_reduce_partial_grads, clip_gradients, gradient_norm
from groundup.parallel.module_surgery import trainable_parameters
from groundup.parallel.pipeline_parallel import PipelineEvaluator, build_schedule
from groundup.plan import parallel_layout as layouts
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train import micro_batch
from groundup.train.compilation import enable_compile_cache, should_compile
from groundup.train.engines.engine_state import EngineState, meta_copy
from groundup.train.mixed_precision import autocast, prepare_weights
from groundup.train.objectives import Batch, Objective, uses_model_loss
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.weight_average import build_weight_average


class ParallelEngine:
    """Trains `model`, the same on every rank, which is used up: each rank keeps its part.

    Raises UserError for a layout that cannot compute the model, and when the ranks were not given the same run.
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
        self.settings, self.objective, self.micro_batch = settings, objective, machine.micro_batch_size
        self.device = next(model.parameters()).device
        self.communicator = Communicator()
        self.communicator.check_same_run(
            settings, layout, model
        )  # first: what a layout refuses, all ranks must
        check_supported(settings)
        layout = layouts.complete_layout(layout, dist.get_world_size())
        if config := getattr(model, "config", None):
            layouts.check_layout(layout, config, settings)
        if layout.pipeline > 1 and not uses_model_loss(objective):
            raise UserError(
                "machine.layout.pipeline: this objective looks at the whole model, which no device has",
                hint="use machine.layout.shard or tensor",
            )
        prepare_weights(model, settings.precision, self.device)
        self.full_model = meta_copy(model)
        self.mesh: Mesh = build_mesh(layout, self.device)
        self.is_main = dist.get_rank() == 0
        self.data_rank, self.data_world_size = self.mesh.data_rank, self.mesh.data_world_size
        operations = 6.0 * sum(weight.numel() for weight in model.parameters()) * (settings.tokens or 0)
        if compiled := should_compile(machine, self.device, operations):
            enable_compile_cache(machine)
        self.parallel_model = parallelize(
            model,
            self.mesh,
            precision=settings.precision,
            loss=self._loss,
            checkpointing=machine.activation_checkpointing,
            compiled=compiled,
        )
        self.module: nn.Module = (
            nn.ModuleList(self.parallel_model.model_parts)
            if self.parallel_model.stages
            else self.parallel_model.model_parts[0]
        )
        self.parameters = [
            weight for part in self.parallel_model.model_parts for _, weight in trainable_parameters(part)
        ]
        self.optimizers = [
            split_groups_by_mesh(optimizer)
            for part in self.parallel_model.model_parts
            for optimizer in build_optimizers(part, settings, settings.learning_rate)
        ]
        weights = {
            name: weight
            for part in self.parallel_model.model_parts
            for name, weight in trainable_parameters(part)
        }
        self.average = build_weight_average(weights, settings)
        self.state = EngineState(
            self.parallel_model.model_parts, self.optimizers, self.average, self.communicator, self.mesh
        )
        self._schedules: dict[Any, Any] = {}
        self.module.train()

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        counted = self.communicator.all_reduce_sum(self.objective.count(batch))
        predicted = max(1.0, counted * self.data_world_size / dist.get_world_size())
        size = self._choose_micro_batch(*next(iter(batch.values())).shape[:2])
        sizes = next(iter(batch.values())).shape[0] // size
        pieces = [
            {name: rows[n * size : (n + 1) * size] for name, rows in batch.items()} for n in range(sizes)
        ]
        # Ranks of the context axis each have a share of the tokens; their losses are the mean's, see context_parallel.py.
        shares = [self.objective.count(piece) / predicted / self.mesh.size("context") for piece in pieces]
        total = (
            self._run_pipeline(batch, shares)
            if self.parallel_model.stages
            else self._run_micro_batches(pieces, shares)
        )
        if self.parallel_model.partial_grad_parameters:
            all_reduce_partial_grads(self.parallel_model.partial_grad_parameters, self.mesh)
        return self.communicator.all_reduce_sum(
            total.item() / self.mesh.size("tensor")
        )  # whose ranks all have the same one

    def _run_micro_batches(self, pieces: list[Batch], shares: list[float]) -> Tensor:
        total = torch.zeros((), device=self.device)
        for number, (piece, share) in enumerate(zip(pieces, shares, strict=True)):
            if isinstance(self.module, FSDPModule):
                last = number == len(pieces) - 1
                self.module.set_requires_gradient_sync(last)
                self.module.set_is_last_backward(last)
            piece = {name: rows.to(self.device, non_blocking=True) for name, rows in piece.items()}
            loss = self._loss(self.module, piece) * share
            loss.backward()
            total += loss.detach()
        return total

    def _run_pipeline(self, batch: Batch, shares: list[float]) -> Tensor:
        batch = {name: rows.to(self.device, non_blocking=True) for name, rows in batch.items()}
        weights = torch.tensor(shares, device=self.device)
        schedule = self._schedule(batch["tokens"].shape, len(shares))
        losses: list[Tensor] = []
        schedule.step(target=weights, losses=losses, return_outputs=False, loss_weight=weights, **batch)
        total = torch.stack([loss.detach() for loss in losses]).sum() if losses else torch.zeros(())
        for piece in self.parallel_model.stages:
            total = total.to(self.device) + piece.take_aux_loss()
        return total

    def _schedule(self, shape: torch.Size, count: int) -> Any:
        if (shape, count) not in self._schedules:
            layout = self.mesh.layout
            length = shape[1] // layout.context // (layout.tensor if layout.sequence_parallel else 1)
            config: Any = self.parallel_model.model_parts[0].config
            hidden = (shape[0] // count, length, config.hidden_size)
            try:
                self._schedules[shape, count] = build_schedule(
                    self.parallel_model.stages, self.mesh, count, hidden
                )
            except ValueError as error:
                raise UserError(
                    f"machine.layout.pipeline_schedule = {layout.pipeline_schedule!r} with {count} micro-batches: {error}",
                    hint="set machine.micro_batch_size so that there are more, or another schedule",
                ) from error
        return self._schedules[shape, count]

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with autocast(self.device, self.settings.precision):
            return self.objective.loss(model, batch)

    def _choose_micro_batch(self, sequences: int, length: int) -> int:
        """Sequences in one piece: what memory allows, and in a pipeline few enough to keep all devices at work."""
        wanted = self.micro_batch or max(1, micro_batch.DEFAULT_TOKENS[self.device.type] // length)
        if self.parallel_model.stages and self.micro_batch is None:
            wanted = min(wanted, max(1, sequences // (4 * self.mesh.layout.pipeline)))
        return max(
            size for size in range(1, sequences + 1) if sequences % size == 0 and size <= max(1, wanted)
        )

    def optimizer_step(self, lr_multiplier: float) -> float:
        norm = gradient_norm(self.parameters, self.mesh)
        value = norm.item()
        if math.isfinite(value):
            clip_gradients(self.parameters, norm, self.settings.max_grad_norm)
            set_learning_rate(self.optimizers, lr_multiplier)
            self._sync_rounding_seed()
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            for part in self.parallel_model.model_parts:
                update_expert_bias(part)
        self.zero_grad()
        return value

    def _sync_rounding_seed(self) -> None:
        """Where weights are rounded by chance: alike in all copies of a weight, and not in its parts."""
        if self.settings.precision == "bfloat16-pure":
            drawn = torch.randint(1 << 62, ())
            dist.broadcast(drawn, 0, group=self.communicator.control_group)
            place = self.mesh.rank("pipeline") * self.mesh.size("data") + self.mesh.rank("data")
            torch.manual_seed(int(drawn) + place)

    def zero_grad(self) -> None:
        for weight in self.parameters:
            weight.grad = None

    @contextmanager
    def eval_model(self) -> Iterator[nn.Module]:
        self.module.eval()
        model = self.parallel_model.model_parts[0]
        try:
            with ExitStack() as methods, autocast(self.device, self.settings.precision):
                if self.average is not None:
                    methods.enter_context(self.average.applied())
                if self.parallel_model.stages:
                    methods.enter_context(PipelineEvaluator(self.parallel_model.stages, self.mesh))
                else:
                    methods.enter_context(_fsdp_methods(model))
                yield model
        finally:
            for part in (part for part in self.module.modules() if isinstance(part, FSDPModule)):
                part.reshard()
            self.module.train()

    def any_rank(self, flag: bool) -> bool:
        return self.communicator.any(flag)

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder)

    def load(self, folder: Path) -> None:
        self.state.load(folder)

    def finalize(self) -> nn.Module:
        if self.average is not None:
            self.average.copy_to_model()
        self.state.gather_full_model(self.full_model)
        return self.full_model.eval()


def check_supported(settings: TrainConfig) -> None:
    """Raises UserError for what only one device does so far: it would be left out without a word."""
    for name, value, known in (
        ("train.precision", settings.precision, ("float32", "bfloat16", "bfloat16-pure")),
        ("train.optimizer_state_dtype", settings.optimizer_state_dtype, ("float32",)),
    ):
        if value not in known:
            raise UserError(
                f"{name} = {value!r} on several devices: expected {' or '.join(known)}",
                hint=f"leave {name} out, or train on one device",
            )


def split_groups_by_mesh(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let every parameter group be of one mesh: fused kernels take no mixed lists."""
    groups = []
    for group in optimizer.param_groups:
        kinds: dict[Any, list[Tensor]] = {}
        for weight in group["params"]:
            kind = (weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else None
            kinds.setdefault(kind, []).append(weight)
        groups += [{**group, "params": weights} for weights in kinds.values()]
    optimizer.param_groups = groups
    return optimizer


@contextmanager
def _fsdp_methods(model: nn.Module) -> Iterator[None]:
    """Let more than `forward` gather weights, as long as it lasts."""
    names = [name for name in ("hidden_states", "logits", "embed", "encode") if hasattr(model, name)]
    for name in names:
        register_fsdp_forward_method(model, name)
    try:
        yield
    finally:
        for name in names:
            model.__dict__.pop(name, None)
