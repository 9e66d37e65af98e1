"""Many devices: one rank of a mesh, whose layout changes nothing but where things are computed."""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
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
from groundup.parallel.storage import pieces_of, rank_file, read_into, shapes_in, write_pieces
from groundup.plan import layout as layouts
from groundup.recipe.layout import Layout
from groundup.recipe.train import TrainSection
from groundup.train import micro_batch
from groundup.train.compiling import compiles, keep_compiled
from groundup.train.engines.engine import Damaged
from groundup.train.objectives import Batch, Objective, own_loss
from groundup.train.optimizer import build_optimizers, set_learning_rate
from groundup.train.precision import autocast


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
        self.control: Any = dist.new_group(
            backend="gloo"
        )  # for words on the CPU, beside the tensors of a step
        self.writing: Any = dist.new_group(backend="gloo")  # for the thread that writes checkpoints
        refuse(settings)
        layout = layouts.complete(layout, dist.get_world_size())
        if config := getattr(model, "config", None):
            layouts.check(layout, config, settings)
        if layout.pipeline > 1 and objective.loss is not own_loss:
            raise UserError(
                "machine.layout.pipeline: this objective looks at the whole model, which no device has",
                hint="use machine.layout.shard or tensor",
            )
        self._agree_on(layout, model)
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
        self._schedules: dict[Any, Any] = {}
        self._seen_data = False
        self.module.train()

    def accumulate(self, batch: Batch) -> float:
        self._compare_data(batch)
        counted = torch.tensor(self.objective.count(batch), dtype=torch.float64)
        dist.all_reduce(counted, group=self.control)
        rows = self.mesh.layout.replicate * self.mesh.size("shard")
        predicted = max(1.0, counted.item() * rows / dist.get_world_size())
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
        total = total.double().cpu() / self.mesh.size("tensor")  # whose ranks all have the same one
        dist.all_reduce(total, group=self.control)
        return total.item()

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
            for optimizer in self.optimizers:
                optimizer.step()
            for part in self.parts.models:
                update_balance(part)
        self.discard()
        return value

    def discard(self) -> None:
        for weight in self.parameters:
            weight.grad = None

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        self.module.eval()
        model = self.parts.models[0]
        try:
            with ExitStack() as methods, autocast(self.device, self.settings.precision):
                if self.parts.pieces:
                    methods.enter_context(Chain(self.parts.pieces, self.mesh))
                else:
                    methods.enter_context(_gathering(model))
                yield model
        finally:
            for part in (part for part in self.module.modules() if isinstance(part, FSDPModule)):
                part.reshard()
            self.module.train()

    def save(self, folder: Path) -> Callable[[], None]:
        pieces = pieces_of(self._state(), self.mesh)

        def write() -> None:
            failure: OSError | None = None
            try:
                write_pieces(pieces, rank_file(folder, dist.get_rank(), dist.get_world_size()))
            except OSError as error:
                failure = error
            if self._any(failure is not None, self.writing):
                raise failure or OSError("another rank could not write its part")

        return write

    def load(self, folder: Path) -> None:
        missing: Exception | None = None
        found: dict[str, torch.Size] = {}
        try:
            found = shapes_in(folder)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            missing = error
        if self._any(missing is not None, self.control):
            raise Damaged(f"{folder}: {missing or 'not readable on another rank'}")
        weights = self._weights()
        other = any(found.get(name) != weight.shape for name, weight in weights.items())
        known: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(known, list(weights), group=self.control)
        names = set().union(*known)
        other |= any(name not in names and name.rpartition(".")[0] not in names for name in found)
        if self._any(other, self.control):
            raise UserError(
                f"{folder}: a checkpoint of another model", hint=f"remove {folder.parent} to start anew"
            )
        for optimizer in self.optimizers:
            _fill(optimizer)
        read_into(folder, self._state())

    def agree(self, wish: bool) -> bool:
        return self._any(wish, self.control)

    def trained(self) -> nn.Module:
        """Weights come to the main rank one by one; no other ever has more than one of them whole."""
        own = self._weights()
        for name, place in self.whole.state_dict().items():
            here = name in own
            owner = torch.tensor(self.mesh.rank("pipeline") if here else -1)
            dist.all_reduce(owner, dist.ReduceOp.MAX, group=self.control)
            weight = _full(own[name]) if here else torch.empty_like(place, device=self.device)
            if self.mesh.size("pipeline") > 1:
                group = self.mesh.group("pipeline")
                dist.broadcast(weight, group=group, group_src=int(owner))
            if self.main:
                _put(self.whole, name, weight.cpu())
        return self.whole.eval()

    def _weights(self) -> dict[str, Tensor]:
        """This rank's parts of what learns and what is kept beside it, each once: a tied head is the embedding."""
        state = {}
        for part in self.parts.models:
            state |= dict(part.named_parameters())
            kept = part.state_dict().keys()
            state |= {name: buffer for name, buffer in part.named_buffers() if name in kept}
        return state

    def _state(self) -> dict[str, Tensor]:
        """The weights, and the optimizer's tensors as `name of the weight.key`."""
        weights = self._weights()
        names = {id(weight): name for name, weight in weights.items()}
        state = dict(weights)
        for optimizer in self.optimizers:
            for weight, tensors in optimizer.state.items():
                state |= {f"{names[id(weight)]}.{key}": value for key, value in tensors.items()}
        return state

    def _any(self, wish: bool, group: dist.ProcessGroup) -> bool:
        flag = torch.tensor(int(wish))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=group)
        return bool(flag)

    def _agree_on(self, layout: Layout, model: nn.Module) -> None:
        """Every rank must have been given the same run; what differs is named."""
        config = getattr(model, "config", None)
        first = next(model.parameters()).detach().flatten()[:1024].cpu()
        mine = {
            "train": self.settings.model_dump_json(),
            "machine.layout": layout.model_dump_json(),
            "model": config.model_dump_json() if config else "",
            "initial weights": hashlib.sha256(first.numpy().tobytes()).hexdigest(),
        }
        self._compare(mine, "set the same recipe and seed on every rank")

    def _compare_data(self, batch: Batch) -> None:
        """Ranks that share rows must have been fed the same ones; looked at once, in the first step."""
        if self._seen_data:
            return
        self._seen_data = True
        digest = hashlib.sha256(
            b"".join(rows.contiguous().numpy().tobytes() for rows in batch.values())
        ).hexdigest()
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (self.data_rank, digest), group=self.control)
        if len(set(everyone)) > self.data_ranks:
            raise UserError(
                "the ranks read different data: those that share a sequence were given different ones",
                hint="let every rank read the same token shards",
            )

    def _compare(self, mine: dict[str, str], hint: str) -> None:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine, group=self.control)
        for name in mine:
            for rank, theirs in enumerate(everyone):
                if theirs[name] != everyone[0][name]:
                    detail = _difference(everyone[0][name], theirs[name])
                    raise UserError(f"rank {rank} has another {name} than rank 0{detail}", hint=hint)


def refuse(settings: TrainSection) -> None:
    """Raises UserError for what only one device does so far: it would be left out without a word."""
    for name, value, known in (
        ("train.average", settings.average, ("none",)),
        ("train.precision", settings.precision, ("float32", "bfloat16")),
        ("train.optimizer_state", settings.optimizer_state, ("float32",)),
    ):
        if value not in known:
            raise UserError(
                f"{name} = {value!r} on several devices: expected {' or '.join(known)}",
                hint=f"leave {name} out, or train on one device",
            )


def _difference(one: str, other: str) -> str:
    """The first knob in which two tables differ."""
    try:
        first, second = json.loads(one), json.loads(other)
    except ValueError:
        return ""
    for name in first:
        if first[name] != second.get(name):
            return f": {name} = {second.get(name)}, and there {first[name]}"
    return ""


def empty_copy(model: nn.Module) -> nn.Module:
    """The same model without memory for its weights."""
    empty = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, empty)  # type: ignore[arg-type]


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


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that has not moved yet the tensors that it will have, by a step that moves nothing."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


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


def _full(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight.detach()


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        own = module.get_parameter(leaf)
        setattr(module, leaf, nn.Parameter(value, requires_grad=own.requires_grad))
    else:
        module.get_buffer(leaf).copy_(value)
