"""Simulation of one rank of many devices on fake tensors: memory and communication of a step, without the devices.

Uses PyTorch's fake process group, whose collectives return at once, and fake tensors, which have shapes but no memory. The
layout is applied as in training (parallel/parallelize.py), one micro-batch runs forward and backward, the optimizer steps,
and memory and sent bytes are counted. No timing. Kernels are the CPU's, in the forms that keep what an accelerator's keep: fused
norms, fused attention, its chunks of logits. What a kernel allocates inside is not counted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import ActivationCheckpointing
from groundup.model import attention, build_model, loss, norm
from groundup.parallel import build_mesh, parallelize
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.comm_counter import CommCounter
from groundup.parallel.gradients import all_reduce_partial_grads
from groundup.parallel.mesh import Mesh
from groundup.plan import Plan
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.derive import resolved_model_config
from groundup.plan.layout.communication import StepSpec, communication_bytes
from groundup.plan.memory.memory_estimate import estimate_training_memory
from groundup.recipe import ModelConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.mixed_precision import autocast
from groundup.train.objectives import NEXT_TOKEN, next_token_batch
from groundup.train.optimizer import build_optimizers

AXES = ("replicate", "data", "context", "tensor")
STATE = ("Sharded Param", "Sharded Grad", "OptState", "Parameter", "Gradient", "Optstate")
"""Kinds of memory that stay between steps, in the words of both trackers."""


def simulate(plan: Plan) -> dict[str, Any]:
    """Rank 0 of `plan`: simulated and planned memory and communication, in bytes.

    Returns memory between steps (state) and at the peak, and bytes sent in one micro-batch by mesh axis.
    Raises UserError for unsupported recipes.
    """
    config, layout, train = resolved_model_config(plan.recipe), plan.layout, plan.recipe.train
    if train is None:
        raise UserError("the recipe has no [train] table to simulate", hint="add one")
    assert layout.shard is not None
    if layout.pipeline > 1 or config.moe is not None or train.precision not in ("bfloat16", "float32"):
        raise UserError(
            "--simulate does not support pipelines, mixture of experts or float8",
            hint="leave --simulate out: the plan estimates them by formula",
        )
    began = time.monotonic()
    devices = layout.replicate * layout.shard * layout.context * layout.tensor
    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        with torch.device("meta"):
            model = build_model(config)
        mesh = build_mesh(layout, torch.device("cpu"))
        parts = parallelize(model, mesh, precision=train.precision, checkpointing=plan.activation_checkpointing)
        rows, length = plan.micro_batch, require_derived(train.sequence_length, "train.sequence_length")
        memory_bytes, sent = _simulate_step(
            parts.model_parts[0], parts.partial_grad_parameters, mesh, train, rows, length
        )
    finally:
        dist.destroy_process_group()
    dtype_bytes = 4 if train.precision == "float32" else 2
    spec = StepSpec(rows, length, 1, dtype_bytes, plan.activation_checkpointing)
    memory = estimate_training_memory(config, length, rows, layout, plan.activation_checkpointing, train)
    planned = communication_bytes(config, layout, spec)
    return {
        "devices": devices,
        "seconds": time.monotonic() - began,
        "memory": {
            "state": {"simulated": memory_bytes["state"], "planned": memory.weights + memory.optimizer},
            "peak": {"simulated": memory_bytes["peak"], "planned": memory.total - memory.process - memory.slack},
        },
        "sent": {axis: {"simulated": sent[axis], "planned": planned[axis]} for axis in AXES if planned[axis]},
    }


def simulate_device(
    config: ModelConfig, train: TrainConfig, rows: int, length: int, checkpointing: ActivationCheckpointing = "none"
) -> dict[str, float]:
    """Bytes between steps (state) and at the peak of training a decoder on one accelerator, without one."""
    with torch.device("meta"):
        model = build_model(config)
    apply_activation_checkpointing(model, checkpointing)
    if train.precision == "bfloat16-pure":
        model.to(torch.bfloat16)
    return _simulate_step(model, [], None, train, rows, length)[0]


@contextmanager
def accelerator_kernels() -> Iterator[None]:
    """Context in which the model computes as on an accelerator, and keeps the same tensors, on fake CPU tensors."""

    def fused_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return norm._RMSNorm.apply(x, weight, eps)  # type: ignore[return-value]

    kept = norm.rms_norm, attention.EAGER_MAX_SCORES
    norm.rms_norm, attention.EAGER_MAX_SCORES = fused_norm, 0
    loss.CHUNK_SIZES["cpu"] = loss.CHUNK_SIZES["cuda"]
    try:
        yield
    finally:
        norm.rms_norm, attention.EAGER_MAX_SCORES = kept
        del loss.CHUNK_SIZES["cpu"]


def _simulate_step(
    model: nn.Module, partial_grad_parameters: list[nn.Parameter], mesh: Mesh | None, train: Any, rows: int, length: int
) -> tuple[dict[str, float], dict[str, float]]:
    with FakeTensorMode(allow_non_fake_inputs=True), accelerator_kernels():
        model.to_empty(device="cpu")
        optimizers = build_optimizers(model, train, 1e-3)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                # The memory tracker miscounts foreach and fused kernels.
                group["foreach"] = group["fused"] = False
                for weight in group["params"]:
                    weight.grad = torch.zeros_like(weight)
            optimizer.step()  # allocates the optimizer state
            optimizer.zero_grad()
        batch = next_token_batch(torch.zeros((rows, length), dtype=torch.long))
        if any(isinstance(module, FSDPModule) for module in model.modules()):
            tracker: MemTracker = FSDPMemTracker(model, optimizers[0])
        else:
            tracker = MemTracker()
            tracker.track_external(model, *optimizers)
        with tracker, CommCounter() as counter:
            with autocast(torch.device("cpu"), train.precision):
                total = NEXT_TOKEN.loss(model, batch)
            total.backward()
            if partial_grad_parameters and mesh is not None:
                all_reduce_partial_grads(partial_grad_parameters, mesh)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
        (after,) = tracker.get_tracker_snapshot("current").values()
    state = sum(value for name, value in after.items() if name in STATE)
    found = {"state": float(state), "peak": float(peak["Total"])}
    if mesh is None:
        return found, {}
    groups = {axis: tuple(dist.get_process_group_ranks(mesh.group(axis))) for axis in AXES if mesh.size(axis) > 1}
    sent = {axis: float(counter.sent_within(groups[axis])) if axis in groups else 0.0 for axis in AXES}
    if groups.get("context") == groups.get("data"):  # counted once
        sent["context"] = 0.0
    return found, sent
