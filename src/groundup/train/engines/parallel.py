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
from groundup.model import update_balance
from groundup.parallel import Mesh, apply, build_mesh
from groundup.parallel.gradients import clip, complete_shares, gradient_norm
from groundup.parallel.parts import trained
from groundup.parallel.pipeline import Chain, build_schedule
from groundup.plan import layout as layouts
from groundup.recipe.layout import Layout
from groundup.recipe.train import TrainSection
from groundup.train import micro_batch
from groundup.train.average import build_average
from groundup.train.compiling import compiles, keep_compiled
from groundup.train.engines.ranks import Ranks
from groundup.train.engines.state import State, empty_copy
from groundup.train.objectives import Batch, Objective, is_own
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.precision import autocast, prepare_weights


class ParallelEngine:
    """Trains `model`, the same on every rank, which is used up: each rank keeps its part.

    Raises UserError for a layout that cannot compute the model, and when the ranks were not given the same run.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, settings: TrainSection, machine: Machine, layout: Layout
    ):
        if settings.learning_rate is None:
            raise ValueError("settings are not derived: learning_rate is needed")
        self.settings, self.objective, self.micro_batch = settings, objective, machine.micro_batch
        self.device = next(model.parameters()).device
        self.ranks = Ranks()
        self.ranks.compare_run(settings, layout, model)  # first: what a layout refuses, all ranks must
        refuse(settings)
        layout = layouts.complete(layout, dist.get_world_size())
        if config := getattr(model, "config", None):
            layouts.check(layout, config, settings)
        if layout.pipeline > 1 and not is_own(objective):
            raise UserError(
                "machine.layout.pipeline: this objective looks at the whole model, which no device has",
                hint="use machine.layout.shard or tensor",
            )
        prepare_weights(model, settings.precision, self.device)
        self.whole = empty_copy(model)
        self.mesh: Mesh = build_mesh(layout, self.device)
        self.main = dist.get_rank() == 0
        self.data_rank, self.data_ranks = self.mesh.row_rank, self.mesh.row_ranks
        operations = 6.0 * sum(weight.numel() for weight in model.parameters()) * (settings.tokens or 0)
        if compiled := compiles(machine, self.device, operations):
            keep_compiled(machine)
        self.parts = apply(
            model,
            self.mesh,
            precision=settings.precision,
            loss=self._loss,
            checkpointing=machine.activation_checkpointing,
            compiled=compiled,
        )
        self.module: nn.Module = (
            nn.ModuleList(self.parts.models) if self.parts.pieces else self.parts.models[0]
        )
        self.parameters = [weight for part in self.parts.models for _, weight in trained(part)]
        self.optimizers = [
            split_by_mesh(optimizer)
            for part in self.parts.models
            for optimizer in build_optimizers(part, settings, settings.learning_rate)
        ]
        weights = {name: weight for part in self.parts.models for name, weight in trained(part)}
        self.average = build_average(weights, settings)
        self.state = State(self.parts.models, self.optimizers, self.average, self.ranks, self.mesh)
        self._schedules: dict[Any, Any] = {}
        self.module.train()

    def accumulate(self, batch: Batch) -> float:
        self.ranks.compare_data(batch, self.data_rank, self.data_ranks)
        counted = self.ranks.sum(self.objective.count(batch))
        predicted = max(1.0, counted * self.data_ranks / dist.get_world_size())
        size = self._micro_batch(*next(iter(batch.values())).shape[:2])
        sizes = next(iter(batch.values())).shape[0] // size
        pieces = [
            {name: rows[n * size : (n + 1) * size] for name, rows in batch.items()} for n in range(sizes)
        ]
        # Ranks of the context axis each have a share of the tokens; their losses are the mean's, see context.py.
        shares = [self.objective.count(piece) / predicted / self.mesh.size("context") for piece in pieces]
        total = self._run_pipeline(batch, shares) if self.parts.pieces else self._run(pieces, shares)
        if self.parts.shares:
            complete_shares(self.parts.shares, self.mesh)
        return self.ranks.sum(total.item() / self.mesh.size("tensor"))  # whose ranks all have the same one

    def _run(self, pieces: list[Batch], shares: list[float]) -> Tensor:
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
        schedule.step(target=weights, losses=losses, return_outputs=False, share=weights, **batch)
        total = torch.stack([loss.detach() for loss in losses]).sum() if losses else torch.zeros(())
        for piece in self.parts.pieces:
            total = total.to(self.device) + piece.take_added()
        return total

    def _schedule(self, shape: torch.Size, count: int) -> Any:
        if (shape, count) not in self._schedules:
            layout = self.mesh.layout
            length = shape[1] // layout.context // (layout.tensor if layout.sequence_parallel else 1)
            config: Any = self.parts.models[0].config
            hidden = (shape[0] // count, length, config.hidden_size)
            try:
                self._schedules[shape, count] = build_schedule(self.parts.pieces, self.mesh, count, hidden)
            except ValueError as error:
                raise UserError(
                    f"machine.layout.schedule = {layout.schedule!r} with {count} micro-batches: {error}",
                    hint="set machine.micro_batch so that there are more, or another schedule",
                ) from error
        return self._schedules[shape, count]

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with autocast(self.device, self.settings.precision):
            return self.objective.loss(model, batch)

    def _micro_batch(self, sequences: int, length: int) -> int:
        """Sequences in one piece: what memory allows, and in a pipeline few enough to keep all devices at work."""
        wanted = self.micro_batch or max(1, micro_batch.TOKENS[self.device.type] // length)
        if self.parts.pieces and self.micro_batch is None:
            wanted = min(wanted, max(1, sequences // (4 * self.mesh.layout.pipeline)))
        return max(
            size for size in range(1, sequences + 1) if sequences % size == 0 and size <= max(1, wanted)
        )

    def update(self, share: float) -> float:
        norm = gradient_norm(self.parameters, self.mesh)
        value = norm.item()
        if math.isfinite(value):
            clip(self.parameters, norm, self.settings.clip_norm)
            set_learning_rate(self.optimizers, share)
            self._agree_on_chance()
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            for part in self.parts.models:
                update_balance(part)
        self.discard()
        return value

    def _agree_on_chance(self) -> None:
        """Where weights are rounded by chance: alike in all copies of a weight, and not in its parts."""
        if self.settings.precision == "bfloat16-pure":
            drawn = torch.randint(1 << 62, ())
            dist.broadcast(drawn, 0, group=self.ranks.control)
            place = self.mesh.rank("pipeline") * self.mesh.size("data") + self.mesh.rank("data")
            torch.manual_seed(int(drawn) + place)

    def discard(self) -> None:
        for weight in self.parameters:
            weight.grad = None

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        self.module.eval()
        model = self.parts.models[0]
        try:
            with ExitStack() as methods, autocast(self.device, self.settings.precision):
                if self.average is not None:
                    methods.enter_context(self.average.in_place())
                if self.parts.pieces:
                    methods.enter_context(Chain(self.parts.pieces, self.mesh))
                else:
                    methods.enter_context(_gathering(model))
                yield model
        finally:
            for part in (part for part in self.module.modules() if isinstance(part, FSDPModule)):
                part.reshard()
            self.module.train()

    def agree(self, wish: bool) -> bool:
        return self.ranks.any(wish)

    def save(self, folder: Path) -> Callable[[], None]:
        return self.state.save(folder)

    def load(self, folder: Path) -> None:
        self.state.load(folder)

    def trained(self) -> nn.Module:
        if self.average is not None:
            self.average.settle()
        self.state.gather(self.whole)
        return self.whole.eval()


def refuse(settings: TrainSection) -> None:
    """Raises UserError for what only one device does so far: it would be left out without a word."""
    for name, value, known in (
        ("train.precision", settings.precision, ("float32", "bfloat16", "bfloat16-pure")),
        ("train.optimizer_state", settings.optimizer_state, ("float32",)),
    ):
        if value not in known:
            raise UserError(
                f"{name} = {value!r} on several devices: expected {' or '.join(known)}",
                hint=f"leave {name} out, or train on one device",
            )


def split_by_mesh(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
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
def _gathering(model: nn.Module) -> Iterator[None]:
    """Let more than `forward` gather weights, as long as it lasts."""
    names = [name for name in ("hidden_states", "logits", "embed", "encode") if hasattr(model, name)]
    for name in names:
        register_fsdp_forward_method(model, name)
    try:
        yield
    finally:
        for name in names:
            model.__dict__.pop(name, None)
