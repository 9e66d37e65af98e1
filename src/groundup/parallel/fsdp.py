"""Data parallelism: sharded weights (FSDP, ZeRO-3), replicated weights (DDP), or both (hybrid sharding).

PyTorch's `fully_shard` gathers a block's weights before it runs and reduce-scatters its gradients after it, overlapped
with neighbouring blocks. Replication is the same with shards of one device: nothing is gathered, and gradients are
all-reduced (Zhao et al. 2023, section 3.2.2).

Gradients are summed, not averaged: the loss of each micro-batch is already weighted by its part of all tokens.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from groundup.model.attention import CrossAttention
from groundup.model.moe import Experts
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import find_blocks

PRECISIONS = ("float32", "bfloat16", "bfloat16-pure")


def apply_fsdp(model: nn.Module, mesh: Mesh, precision: str) -> None:
    """Shard each block, then the rest of the model, over the data axis; replicate over the replicate axis.

    With bfloat16 the blocks' weights are gathered in bfloat16, which halves the traffic: matrix products run in it
    anyway; those of a model with frozen weights are gathered as they are stored. Master weights, sums of gradients, norms,
    embedding and head stay float32; with bfloat16-pure only the sums.
    """
    layout = mesh.layout
    offload: Any = OffloadPolicy()
    if layout.cpu_offload == "all":
        offload = CPUOffloadPolicy(pin_memory=mesh.device.type != "cpu")
    block_policy = rest_policy = MixedPrecisionPolicy()
    if precision != "float32" and all(weight.requires_grad for weight in model.parameters()):
        block_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    if precision == "bfloat16-pure":
        rest_policy = block_policy
    common: dict[str, Any] = {
        "reshard_after_forward": reshards_blocks(mesh),
        "offload_policy": offload,
        "shard_placement_fn": _shard_placement,
    }
    data = _submesh(mesh, mesh.weight_mesh, "data")
    for block in find_blocks(model):
        for part in block.modules():
            if isinstance(part, Experts) and layout.expert > 1:
                experts = _submesh(mesh, mesh.expert_mesh, "expert_shard")
                fully_shard(part, mesh=experts, mp_policy=block_policy, **common)
            elif isinstance(part, CrossAttention):
                # Used before the block's forward pass, by `project_memory`.
                for linear in (part.k_proj, part.v_proj):
                    fully_shard(linear, mesh=data, mp_policy=block_policy, **common)
        fully_shard(block, mesh=data, mp_policy=block_policy, **common)
    common["reshard_after_forward"] = False
    fully_shard(model, mesh=data, mp_policy=rest_policy, **common)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def reshards_blocks(mesh: Mesh) -> bool:
    """Whether a block gives the gathered weights up after its forward pass."""
    layout = mesh.layout
    reshard = layout.pipeline == 1 if layout.reshard_after_forward is None else layout.reshard_after_forward
    return reshard and mesh.size("data") > 1


def _shard_placement(weight: nn.Parameter) -> Shard | None:
    """The second dimension of weights that tensor or expert parallelism has sharded along the first."""
    return Shard(1) if isinstance(weight, DTensor) and weight.placements[-1].is_shard(0) else None


def _submesh(mesh: Mesh, devices: Any, axis: str) -> Any:
    return devices["replicate", axis] if mesh.layout.replicate > 1 else devices[axis]
