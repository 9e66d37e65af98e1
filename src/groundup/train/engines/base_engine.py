"""Base class of the engines: setup checks, gradient accumulation over micro-batches, checkpoints."""

import importlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model.moe import reset_expert_load, set_aux_loss_weight, update_expert_bias
from groundup.parallel import Mesh
from groundup.parallel.communicator import Communicator, SingleProcess
from groundup.parallel.gradients import clip_grad_norm
from groundup.plan.checks.engine_support import ENGINE_PACKAGES, check_engine_installed
from groundup.plan.layout import parallel_layout
from groundup.plan.layout.pipeline_schedule import supports_micro_batches
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import EngineName, TrainConfig
from groundup.train.compilation import enable_compile_cache, should_compile
from groundup.train.micro_batch import DEFAULT_TOKENS
from groundup.train.objectives import Batch, Objective
from groundup.train.optimizer import set_learning_rate
from groundup.train.weight_average import WeightAverage

MIN_WEIGHT = 1e-12
"""Of a micro-batch without targets, by which the weight of its auxiliary loss is divided."""

MicroStep = Callable[[Batch, float, bool], Tensor]
"""(micro-batch, weight, is_last) -> loss * weight, after its backward pass."""


class TrainState(Protocol):
    """The tensors of an engine by the names of the full model: checkpoints that any other engine can read."""

    def save(self, folder: Path, **metadata: str) -> Callable[[], None]: ...
    def load(self, folder: Path) -> dict[str, str]: ...
    def gather_full_model(self) -> nn.Module: ...


class BaseEngine:
    """Setup shared by all engines. `layout` is None on a single device.

    Raises UserError, on all ranks, for a layout that cannot compute the model or ranks with different settings.
    """

    state: TrainState
    average: WeightAverage | None = None
    module: nn.Module
    context_size = 1

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        settings: TrainConfig,
        machine: Machine,
        layout: LayoutConfig | None = None,
        whole_batches: bool = False,
    ):
        if settings.learning_rate is None:
            raise ValueError("train.learning_rate is not set")
        self.settings, self.objective, self.learning_rate = settings, objective, settings.learning_rate
        self.device = next(model.parameters()).device
        self.micro_batch_size = machine.micro_batch_size
        self.communicator: Any = SingleProcess() if layout is None else Communicator()
        self.is_main = self.communicator.rank == 0
        self.data_rank, self.data_world_size = self.communicator.rank, self.communicator.size
        if layout is not None and objective.prepare is not None and not whole_batches:
            raise UserError("this objective needs whole batches", hint="machine.devices = 1")
        if layout is not None:
            self.communicator.check_same_run(settings, layout, model)  # before checks that stop single ranks
            self.layout = parallel_layout.complete_layout(layout, self.communicator.size)
            if config := getattr(model, "config", None):
                # Whole batches are divided unevenly where they must be.
                checked = settings.model_copy(update={"batch_tokens": None}) if whole_batches else settings
                parallel_layout.check_layout(self.layout, config, checked)

    def accumulate(
        self, batch: Batch, size: int, num_targets: float, micro_step: MicroStep, part: tuple[int, int] = (0, 1)
    ) -> Tensor:
        """Sum of `micro_step` over micro-batches of `size` sequences, each weighted by its part of `num_targets`.

        The auxiliary loss of experts is weighted by the part of the sequences. `part`: (rank, ranks), to take the sequences of
        one of several ranks alone, in as many micro-batches on each: collectives in the model need that.
        """
        total = torch.zeros((), device=self.device)
        micro_batches, num_idle = split_part(batch, size, *part)
        for index, micro_batch in enumerate(micro_batches):
            is_idle = index >= len(micro_batches) - num_idle
            weight = 0.0 if is_idle else max(MIN_WEIGHT, self.objective.count(micro_batch) / max(1.0, num_targets))
            set_aux_loss_weight(self.module, 0.0 if is_idle else self.aux_loss_weight(micro_batch, batch) / weight)
            total += micro_step(self._to_device(micro_batch), weight, index == len(micro_batches) - 1).detach()
        return total

    def aux_loss_weight(self, micro_batch: Batch, batch: Batch) -> float:
        """Weight of the auxiliary loss of a micro-batch: its part of the sequences of all ranks."""
        sequences, total = (len(next(iter(rows.values()))) for rows in (micro_batch, batch))
        return sequences / (total * self.data_world_size * self.context_size)

    def default_micro_batch_size(self, length: int) -> int:
        """machine.micro_batch_size, or the number of sequences that makes a forward pass efficient."""
        return self.micro_batch_size or max(1, DEFAULT_TOKENS[self.device.type] // length)

    def even_micro_batch_size(self, batch: Batch) -> int:
        """The largest divisor of the sequences up to the default size: for pipelines, if possible 4 micro-batches a rank."""
        sequences, length = next(iter(batch.values())).shape[:2]
        limit = self.default_micro_batch_size(length)
        sizes = [size for size in range(1, sequences + 1) if sequences % size == 0]
        if self.layout.pipeline > 1:
            if self.micro_batch_size is None:
                limit = min(limit, max(1, sequences // (4 * self.layout.pipeline)))
            sizes = [size for size in sizes if supports_micro_batches(self.layout, sequences // size)]
        return max((size for size in sizes if size <= limit), default=sizes[0])

    def any_rank(self, flag: bool) -> bool:
        return self.communicator.any(flag)

    def broadcast(self, value: Any) -> Any:
        return self.communicator.broadcast_object(value)

    def gather(self, value: Any) -> list[Any]:
        return self.communicator.all_gather_objects(value)

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder)

    def load(self, folder: Path) -> None:
        self.state.load(folder)

    def finalize(self) -> nn.Module:
        if self.average is not None:
            self.average.copy_to_model()
        return self.state.gather_full_model()

    def _to_device(self, batch: Batch) -> Batch:
        return {name: rows.to(self.device, non_blocking=True) for name, rows in batch.items()}


class TorchEngine(BaseEngine):
    """Base class of the engines with PyTorch optimizers: the update step.

    Attributes:
        model_parts: the model, or this rank's pipeline stages of it.
        parameters: their trainable parameters.
        mesh: the device mesh; None on a single device.
    """

    model_parts: list[nn.Module]
    parameters: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    mesh: Mesh | None = None

    def eval_model(self) -> AbstractContextManager[nn.Module]:
        raise NotImplementedError

    def eval_replica(self) -> AbstractContextManager[nn.Module]:
        """As `eval_model`, but each rank has all weights meanwhile, and calls the model as often as it likes."""
        raise NotImplementedError

    def optimizer_step(self, lr_multiplier: float) -> float:
        norm = clip_grad_norm(self.parameters, self.settings.max_grad_norm, self.mesh).item()
        if math.isfinite(norm):
            set_learning_rate(self.optimizers, lr_multiplier)
            self._sync_rounding_seed()
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            for part in self.model_parts:
                update_expert_bias(part)
        self.zero_grad()
        return norm

    def should_compile(self, full_model: nn.Module, machine: Machine) -> bool:
        """Whether to compile the model for this run; if so, enables the cache of compiled kernels."""
        flops = 6.0 * sum(weight.numel() for weight in full_model.parameters()) * (self.settings.tokens or 0)
        compiled = should_compile(machine, self.device, flops)
        if compiled:
            enable_compile_cache(machine)
        return compiled

    def zero_grad(self) -> None:
        for weight in self.parameters:
            weight.grad = None
        for part in self.model_parts:
            reset_expert_load(part)

    def _sync_rounding_seed(self) -> None:
        """Seed of stochastic rounding: equal for replicas of a weight, different for its shards."""
        if self.mesh is not None and self.settings.precision == "bfloat16-pure":
            drawn = torch.randint(1 << 62, ())
            dist.broadcast(drawn, 0, group=self.communicator.control_group)
            shard = self.mesh.rank("pipeline") * self.mesh.size("data") + self.mesh.rank("data")
            torch.manual_seed(int(drawn) + shard)


def import_engine(engine: EngineName, module: str) -> Any:
    """The module of an engine's package. Raises UserError if it is not installed or cannot be imported."""
    check_engine_installed(engine)
    _, name, hint = ENGINE_PACKAGES[engine]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"train.engine = {engine!r}: {name} cannot be imported here: {error}", hint=hint) from None


def split_batch(batch: Batch, size: int) -> list[Batch]:
    """Micro-batches of `size` sequences; the last one may be smaller."""
    num_sequences = len(next(iter(batch.values())))
    return [
        {name: rows[start : start + size] for name, rows in batch.items()} for start in range(0, num_sequences, size)
    ]


def split_part(batch: Batch, size: int, rank: int, ranks: int) -> tuple[list[Batch], int]:
    """Micro-batches of `size` sequences from the part of one of `ranks`, and how many at the end are there for their number.

    These repeat the first sequence of the batch.

    >>> batch = {"tokens": torch.arange(5)[:, None]}
    >>> micro_batches, num_idle = split_part(batch, 1, rank=1, ranks=2)
    >>> [rows["tokens"].item() for rows in micro_batches], num_idle
    ([3, 4, 0], 1)
    """
    num_sequences = len(next(iter(batch.values())))
    share = math.ceil(num_sequences / ranks)
    begin = min(rank * share, num_sequences)
    own = split_batch({name: rows[begin : begin + share] for name, rows in batch.items()}, size)
    num_idle = math.ceil(share / size) - len(own)
    return own + num_idle * [{name: rows[:1] for name, rows in batch.items()}], num_idle
