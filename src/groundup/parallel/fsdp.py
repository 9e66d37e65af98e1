"""Data parallelism: ranks see other tokens, and share (FSDP, ZeRO-3) or copy (DDP) the weights.

PyTorch's `fully_shard` gathers a block's weights before it runs and scatters its gradients behind it, overlapped with
the blocks beside it. Copies are the same with one device a copy: then nothing is gathered, and gradients are summed
(hybrid sharding, Zhao et al. 2023, section 3.2.2, has both).

Gradients are summed, not averaged: the loss of each micro-batch is already weighed by its share of all tokens.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard

from groundup.model.attention import CrossAttention
from groundup.model.moe import Experts
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import find_blocks


def apply_fsdp(model: nn.Module, mesh: Mesh, precision: str) -> None:
    """Shard each block, then what is left, over the data axis, and copy over the replicate axis.

    With `precision` bfloat16 the blocks' weights are gathered in it, which halves what is sent: products run in it
    anyway. Master weights, the sum of gradients, norms of the stream and the two ends of the model stay float32.
    """
    layout = mesh.layout
    reshard = (
        layout.reshard_after_forward if layout.reshard_after_forward is not None else layout.pipeline == 1
    )
    reshard = reshard and layout.shard * layout.context > 1  # type: ignore[operator]
    offload: Any = OffloadPolicy()
    if layout.cpu_offload == "all":
        offload = CPUOffloadPolicy(pin_memory=mesh.device.type != "cpu")
    half = rest = MixedPrecisionPolicy()
    if precision.startswith("bfloat16"):
        half = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    common: dict[str, Any] = {
        "reshard_after_forward": reshard,
        "offload_policy": offload,
        "shard_placement_fn": _shard_placement,
    }
    if precision == "bfloat16-pure":
        rest = half  # all weights are in it; sums of gradients are not
    data = _submesh(mesh, "weight_mesh", "data")
    for block in find_blocks(model):
        for part in block.modules():
            if isinstance(part, Experts) and layout.expert > 1:
                fully_shard(
                    part, mesh=_submesh(mesh, "expert_mesh", "expert_shard"), mp_policy=half, **common
                )
            elif isinstance(part, CrossAttention):
                # Keys and values of the source are made before the block itself runs.
                for linear in (part.k_proj, part.v_proj):
                    fully_shard(linear, mesh=data, mp_policy=half, **common)
        fully_shard(block, mesh=data, mp_policy=half, **common)
    common["reshard_after_forward"] = False
    fully_shard(model, mesh=data, mp_policy=rest, **common)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def _shard_placement(weight: nn.Parameter) -> Shard | None:
    """What the tensor or the expert axis has cut along its first dimension is sharded along the second."""
    return Shard(1) if isinstance(weight, DTensor) and weight.placements[-1].is_shard(0) else None


def _submesh(mesh: Mesh, name: str, axis: str) -> Any:
    grid = getattr(mesh, name)
    return grid["replicate", axis] if mesh.layout.replicate > 1 else grid[axis]
