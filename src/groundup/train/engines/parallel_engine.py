"""Training engine for several devices: data, tensor, context, expert and pipeline parallelism in PyTorch."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.parallel import Mesh, build_mesh, parallelize
from groundup.parallel.fsdp import reshards_blocks
from groundup.parallel.gradients import all_reduce_partial_grads
from groundup.parallel.module_surgery import trainable_parameters
from groundup.parallel.pipeline_parallel import PipelineEvaluator, build_schedule
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.base_engine import MIN_WEIGHT, TorchEngine, split_batch
from groundup.train.engines.engine_state import EngineState, meta_copy
from groundup.train.mixed_precision import autocast, prepare_weights
from groundup.train.objectives import Batch, Objective, uses_model_loss
from groundup.train.optimizer import build_optimizers, get_learning_rate_ratio, set_learning_rate_ratio
from groundup.train.weight_average import build_weight_average


class ParallelEngine(TorchEngine):
    """Trains `model`, identical on every rank and consumed: each rank keeps only its part.

    `whole_batches`: every rank is given the whole batch, of any number of sequences, and computes its part of it.

    Raises UserError for a layout that cannot compute the model or ranks with different settings.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        settings: TrainConfig,
        machine: Machine,
        layout: LayoutConfig,
        whole_batches: bool = False,
    ):
        super().__init__(model, objective, settings, machine, layout, whole_batches)
        if self.layout.pipeline > 1 and not uses_model_loss(objective):
            raise UserError(
                "machine.layout.pipeline: this objective needs the whole model on one device",
                hint="use machine.layout.shard or tensor",
            )
        prepare_weights(model, settings.precision, self.device)
        full_model = meta_copy(model)
        self.mesh: Mesh = build_mesh(self.layout, self.device)
        self.data_rank, self.data_world_size = self.mesh.data_rank, self.mesh.data_world_size
        self._part = (self.data_rank, self.data_world_size) if whole_batches else None
        if whole_batches:
            self.data_rank, self.data_world_size = 0, 1
        rates = {name: get_learning_rate_ratio(weight) for name, weight in trainable_parameters(model)}
        self.context_size = self.mesh.size("context")
        self.parallel_model = parallelize(
            model,
            self.mesh,
            precision=settings.precision,
            loss=self._loss,
            checkpointing=machine.activation_checkpointing,
            compiled=self.should_compile(model, machine),
        )
        self.model_parts = model_parts = self.parallel_model.model_parts
        self.module: nn.Module = nn.ModuleList(model_parts) if self.parallel_model.stages else model_parts[0]
        trainable = [item for part in model_parts for item in trainable_parameters(part)]
        for name, weight in trainable:  # other objects than before
            set_learning_rate_ratio(weight, rates[name])
        self.parameters = [weight for _, weight in trainable]
        self.optimizers = [
            split_groups_by_mesh(optimizer)
            for part in model_parts
            for optimizer in build_optimizers(part, settings, self.learning_rate)
        ]
        self.average = build_weight_average(dict(trainable), settings)
        self.state = EngineState(model_parts, self.optimizers, self.average, self.communicator, self.mesh, full_model)
        self._schedules: dict[Any, Any] = {}
        self.module.train()

    def forward_backward(self, batch: Batch) -> float:
        self.communicator.check_same_data(batch, self.data_rank, self.data_world_size)
        if self._part is not None:
            return self._whole_batch_step(batch, self._part)
        # The targets of one rank's sequences are counted once per rank of the other axes. Context ranks each compute a
        # part of the tokens, and the gradient is summed over them.
        num_targets = self.communicator.all_reduce_sum(self.objective.count(batch))
        num_targets *= self.data_world_size / dist.get_world_size()
        num_targets = max(1.0, num_targets) * self.context_size
        size = self.even_micro_batch_size(batch)
        if self.parallel_model.stages:
            total = self._run_pipeline(batch, size, num_targets)
        else:
            total = self.accumulate(batch, size, num_targets, self._micro_step)
        if self.parallel_model.partial_grad_parameters:
            all_reduce_partial_grads(self.parallel_model.partial_grad_parameters, self.mesh)
        # Tensor parallel ranks all have the same loss.
        return self.communicator.all_reduce_sum(total.item() / self.mesh.size("tensor"))

    def _whole_batch_step(self, batch: Batch, part: tuple[int, int]) -> float:
        if self.objective.prepare is not None:
            with self.eval_model() as model:
                batch = self.objective.prepare(model, batch)
        torch.manual_seed(torch.initial_seed() + part[0])  # dropout; the loop has seeded all ranks alike
        length = next(iter(batch.values())).shape[1]
        num_targets = self.objective.count(batch) * self.context_size
        size = self.default_micro_batch_size(length)
        total = self.accumulate(batch, size, num_targets, self._micro_step, part)
        return self.communicator.all_reduce_sum(total.item() / self.mesh.size("tensor"))

    def _micro_step(self, micro_batch: Batch, weight: float, is_last: bool) -> Tensor:
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(is_last)
            self.module.set_is_last_backward(is_last)
        # An objective that does not call the model itself calls its methods.
        with nullcontext() if uses_model_loss(self.objective) else _fsdp_methods(self.module):
            loss = self._loss(self.module, micro_batch) * weight
        loss.backward()
        return loss

    def _run_pipeline(self, batch: Batch, size: int, num_targets: float) -> Tensor:
        micro_batches = split_batch(batch, size)
        counts = [self.objective.count(micro_batch) for micro_batch in micro_batches]
        weights = torch.tensor([max(MIN_WEIGHT, count / num_targets) for count in counts], device=self.device)
        aux_weights = weights.new_tensor([self.aux_loss_weight(micro_batch, batch) for micro_batch in micro_batches])
        batch = self._to_device(batch)
        schedule = self._schedule(batch["tokens"].shape, len(counts))
        losses: list[Tensor] = []
        named = {"loss_weight": weights, "aux_loss_weight": aux_weights} | batch
        schedule.step(target=weights, losses=losses, return_outputs=False, **named)
        total = torch.stack([loss.detach() for loss in losses]).sum() if losses else torch.zeros(())
        for stage in self.parallel_model.stages:
            total = total.to(self.device) + stage.take_aux_loss()
        return total

    def _schedule(self, shape: torch.Size, count: int) -> Any:
        if (shape, count) not in self._schedules:
            layout = self.mesh.layout
            length = shape[1] // layout.context // (layout.tensor if layout.sequence_parallel else 1)
            config: Any = self.parallel_model.model_parts[0].config
            hidden = (shape[0] // count, length, config.hidden_size)
            self._schedules[shape, count] = build_schedule(self.parallel_model.stages, self.mesh, count, hidden)
        return self._schedules[shape, count]

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with autocast(self.device, self.settings.precision):
            return self.objective.loss(model, batch)

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
            for part in self._sharded_modules():
                part.reshard()
            self.module.train()

    @contextmanager
    def eval_replica(self) -> Iterator[nn.Module]:
        """As `eval_model`, for layouts of rows: one forward pass gathers the weights, which then stay."""
        with self.eval_model() as model:
            blocks = [part for part in self._sharded_modules() if part is not model]
            for part in blocks:
                part.set_reshard_after_forward(False, recurse=False)
            with torch.no_grad():
                model(torch.zeros(1, 1, dtype=torch.long, device=self.device))
            try:
                yield model
            finally:
                for part in blocks:
                    part.set_reshard_after_forward(reshards_blocks(self.mesh), recurse=False)

    def _sharded_modules(self) -> list[FSDPModule]:
        return [part for part in self.module.modules() if isinstance(part, FSDPModule)]


def split_groups_by_mesh(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Split parameter groups by device mesh and placement: fused kernels take no mixed lists."""
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
    """Context in which methods other than `forward` gather sharded weights as well."""
    names = [name for name in ("hidden_states", "logits", "embed", "encode") if hasattr(model, name)]
    names = [name for name in names if name not in model.__dict__]  # registered twice, they give the weights up
    for name in names:
        register_fsdp_forward_method(model, name)
    try:
        yield
    finally:
        for name in names:
            model.__dict__.pop(name, None)
