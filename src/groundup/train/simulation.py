"""A step on many devices that are not there: one rank of them, built as it would be, with tensors that have no numbers.

PyTorch's fake process group answers every collective at once with nothing, and fake tensors have shapes and no memory.
So the layout is applied as it will be (parallel/parallelize.py), one micro-batch goes forward and back, the optimizer steps, and
what the rank held and sent is counted. It says nothing about time, and its kernels are a CPU's: on an accelerator
another kernel may keep something else for the backward pass.
"""

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore

from groundup.artifacts.errors import UserError
from groundup.model import build_model
from groundup.parallel import build_mesh, parallelize
from groundup.parallel.comm_counter import CommCounter
from groundup.parallel.gradients import all_reduce_partial_grads
from groundup.parallel.mesh import Mesh
from groundup.plan import Plan
from groundup.plan.communication import StepSpec, communication_bytes
from groundup.plan.derive import require_derived, resolved_model_config
from groundup.plan.memory_estimate import estimate_training_memory
from groundup.train.mixed_precision import autocast
from groundup.train.objectives import NEXT_TOKEN, next_token_batch
from groundup.train.optimizer import build_optimizers

AXES = ("replicate", "data", "context", "tensor")
STATE = ("Sharded Param", "Sharded Grad", "OptState")


def simulate(plan: Plan) -> dict[str, Any]:
    """Rank 0 of `plan`, in a process of its own; for each of memory and traffic what was counted and what is planned.

    Returns bytes: of the state between steps and of the step's peak; and sent for one micro-batch, by axis.
    Raises UserError for what cannot be simulated.
    """
    config, layout, train = resolved_model_config(plan.recipe), plan.layout, plan.recipe.train
    if train is None:
        raise UserError("there is no [train] table, so nothing to simulate", hint="add one")
    assert layout.shard is not None
    if layout.pipeline > 1 or config.moe is not None or train.precision not in ("bfloat16", "float32"):
        raise UserError(
            "a simulation has no pipelines, mixtures of experts or float8",
            hint="leave --simulate out: the plan's formulas have them, where they can",
        )
    began = time.monotonic()
    devices = layout.replicate * layout.shard * layout.context * layout.tensor
    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        with torch.device("meta"):
            model = build_model(config)
        mesh = build_mesh(layout, torch.device("cpu"))
        parts = parallelize(
            model, mesh, precision=train.precision, checkpointing=plan.activation_checkpointing
        )
        rows, length = plan.micro_batch, require_derived(train.sequence_length, "train.sequence_length")
        held, sent = _step(parts.model_parts[0], parts.partial_grad_parameters, mesh, train, rows, length)
    finally:
        dist.destroy_process_group()
    product = 4 if train.precision == "float32" else 2
    work = StepSpec(rows, length, 1, product, plan.activation_checkpointing)
    memory = estimate_training_memory(config, length, rows, layout, plan.activation_checkpointing, product)
    planned = communication_bytes(config, layout, work)
    return {
        "devices": devices,
        "seconds": time.monotonic() - began,
        "memory": {
            "state": {"simulated": held["state"], "planned": memory.weights + memory.optimizer},
            "peak": {"simulated": held["peak"], "planned": memory.total},
        },
        "sent": {axis: {"simulated": sent[axis], "planned": planned[axis]} for axis in AXES if planned[axis]},
    }


def _step(
    model: nn.Module, shares: list[nn.Parameter], mesh: Mesh, train: Any, rows: int, length: int
) -> tuple[dict[str, float], dict[str, float]]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        optimizers = build_optimizers(model, train, 1e-3)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                # Kernels over lists of tensors confuse what counts their memory.
                group["foreach"] = group["fused"] = False
                for weight in group["params"]:
                    weight.grad = torch.zeros_like(weight)
            optimizer.step()  # makes the state that later steps find
            optimizer.zero_grad()
        batch = next_token_batch(torch.zeros((rows, length), dtype=torch.long))
        tracker = FSDPMemTracker(model, optimizers[0])
        with tracker, CommCounter() as seen:
            with autocast(torch.device("cpu"), train.precision):
                loss = NEXT_TOKEN.loss(model, batch)
            loss.backward()
            if shares:
                all_reduce_partial_grads(shares, mesh)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
        (after,) = tracker.get_tracker_snapshot("current").values()
    groups = {
        axis: tuple(dist.get_process_group_ranks(mesh.group(axis))) for axis in AXES if mesh.size(axis) > 1
    }
    sent = {axis: float(seen.sent_within(groups[axis])) if axis in groups else 0.0 for axis in AXES}
    if groups.get("context") == groups.get("data"):  # what went among them cannot be told apart
        sent["context"] = 0.0
    state = sum(value for name, value in after.items() if name in STATE)
    return {"state": float(state), "peak": float(peak["Total"])}, sent
