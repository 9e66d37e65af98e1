"""Expert parallelism: the devices of the expert axis share the experts of a mixture (Lepikhin et al. 2020, GShard).

Each rank holds some experts whole and sees some tokens. Tokens, sorted by expert, are sent to the ranks that hold their
experts, go through them, and are sent back: two exchanges a layer. None is dropped, so the counts go ahead.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.moe import AuxiliaryLoss, Experts, Router, run_experts
from groundup.parallel.collectives import Group, all_to_all
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import local_tensor, patch_method, shard_parameter


def apply_expert_parallel(model: nn.Module, mesh: Mesh) -> None:
    """Keep this rank's experts of every mixture, and send tokens where their experts are."""
    assert mesh.expert_mesh is not None
    for part in model.modules():
        if isinstance(part, Experts):
            for name in ("gate_proj", "up_proj", "down_proj"):
                shard_parameter(part, name, 0, mesh.expert_mesh["expert"])
            patch_method(part, "forward", _dispatch_and_run, part, mesh.group("expert"))


def apply_global_load_balancing(model: nn.Module, mesh: Mesh) -> None:
    """Judge how busy experts are by the tokens of all ranks (Qiu et al. 2025, "Demons in the Detail").

    So the balancing is that of the whole micro-batch, in any layout.
    """
    axes = ["replicate", "data", "tensor"] if mesh.layout.sequence_parallel else ["replicate", "data"]
    groups = [mesh.group(axis) for axis in axes if mesh.size(axis) > 1]
    of_one = mesh.size("tensor") if mesh.layout.sequence_parallel else 1
    for part in model.modules():
        if isinstance(part, Router) and groups:
            patch_method(
                part.load_balancer,
                "observe",
                _observe_global_load,
                part.load_balancer.observe,
                part.load_balancer,
                groups,
                of_one,
            )


def _observe_global_load(
    observe: Any,
    balance: Any,
    groups: list[Group],
    ranks_per_sequence: int,
    scores: Float[Tensor, "N E"],
    counts: Int[Tensor, " E"],
) -> None:
    """`of_one` ranks share one sequence: their gradients are summed, and the loss is a mean over their tokens."""
    mean = counts.float()
    if balance.training:
        for group in groups:
            dist.all_reduce(mean, group=group)
            mean /= group.size()
    observe(scores, mean)
    if balance.training and isinstance(balance, AuxiliaryLoss) and isinstance(balance.loss, Tensor):
        value = balance.loss.detach()
        balance.loss = value + (balance.loss - value) / ranks_per_sequence


def _dispatch_and_run(
    experts: Experts, group: Group, x: Float[Tensor, "M D"], ends: Int[Tensor, " E"]
) -> Float[Tensor, "M D"]:
    size = group.size()
    counts = ends.diff(prepend=ends.new_zeros(1))
    theirs = torch.empty_like(counts)  # of each rank, the tokens for each expert of ours
    dist.all_to_all_single(theirs, counts, group=group)
    sent, received = counts.view(size, -1).sum(1).tolist(), theirs.view(size, -1).sum(1).tolist()
    arrived = all_to_all(x, group, sent, received)
    # They come by rank, then by expert; the experts want them by expert.
    expert = torch.arange(len(theirs) // size, device=x.device).repeat(size).repeat_interleave(theirs)
    order = expert.argsort(stable=True)
    own_ends = theirs.view(size, -1).sum(0).cumsum(0)
    weights = (
        local_tensor(experts.gate_proj),
        local_tensor(experts.up_proj),
        local_tensor(experts.down_proj),
    )
    outputs = run_experts(arrived[order], own_ends, *weights, experts.activation)
    back = torch.empty_like(outputs).index_copy(0, order, outputs)
    return all_to_all(back, group, received, sent)
