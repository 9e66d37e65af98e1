"""Expert parallelism: each rank of the expert axis has some experts of every mixture (Lepikhin et al. 2020, GShard).

Experts are not split. Tokens, sorted by expert, are sent to the ranks of their experts
and back: two all-to-alls a layer. No token is dropped, so the counts are exchanged first.
"""

import math

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.moe import AuxiliaryLoss, ExpertBias, Experts, NoBalancing, Router, run_experts
from groundup.parallel.collectives import Group, all_to_all
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import local_tensor, shard_parameter, specialize


def apply_expert_parallel(model: nn.Module, mesh: Mesh) -> None:
    """Keep this rank's experts of every mixture, and send tokens to the ranks of their experts."""
    assert mesh.expert_mesh is not None
    for part in model.modules():
        if isinstance(part, Experts):
            for name in ("gate_proj", "up_proj", "down_proj"):
                shard_parameter(part, name, 0, mesh.expert_mesh["expert"])
            specialize(part, _ExpertParallel, group=mesh.group("expert"))


def apply_global_load_balancing(model: nn.Module, mesh: Mesh) -> None:
    """Balance experts over whole sequences (auxiliary loss) or the batch of all ranks (bias), in any layout."""
    sharing = ["context", "tensor"] if mesh.layout.sequence_parallel else ["context"]
    sequence_groups = [mesh.group(axis) for axis in sharing if mesh.size(axis) > 1]
    batch_groups = [mesh.group(axis) for axis in ("replicate", "data", *sharing[1:]) if mesh.size(axis) > 1]
    size = mesh.size("tensor") if mesh.layout.sequence_parallel else 1
    balance_over_groups(model, batch_groups, sequence_groups, size)


def balance_over_groups(
    model: nn.Module, batch_groups: list[Group], sequence_groups: list[Group] | None = None, tensor_size: int = 1
) -> None:
    """Balance experts over the ranks that share a batch, and those that share a sequence."""
    for part in model.modules():
        if isinstance(part, Router) and isinstance(part.load_balancer, AuxiliaryLoss) and sequence_groups:
            specialize(part.load_balancer, _SequenceLoadBalancing, groups=sequence_groups, tensor_size=tensor_size)
        elif isinstance(part, Router) and isinstance(part.load_balancer, ExpertBias) and batch_groups:
            specialize(part.load_balancer, _GlobalLoadBalancing, groups=batch_groups)


class _ExpertParallel(Experts):
    group: Group

    def forward(self, x: Float[Tensor, "M D"], ends: Int[Tensor, " E"]) -> Float[Tensor, "M D"]:
        size = self.group.size()
        counts = ends.diff(prepend=ends.new_zeros(1))
        received = torch.empty_like(counts)  # by rank, the tokens for each of this rank's experts
        dist.all_to_all_single(received, counts, group=self.group)
        send_counts, receive_counts = (counts.view(size, -1).sum(1).tolist(), received.view(size, -1).sum(1).tolist())
        tokens = all_to_all(x, self.group, send_counts, receive_counts)
        # They arrive sorted by rank, then by expert; the experts need them sorted by expert.
        expert = torch.arange(len(received) // size, device=x.device).repeat(size).repeat_interleave(received)
        order = expert.argsort(stable=True)
        local_ends = received.view(size, -1).sum(0).cumsum(0)
        weights = (local_tensor(self.gate_proj), local_tensor(self.up_proj), local_tensor(self.down_proj))
        outputs = run_experts(tokens[order], local_ends, *weights, self.gating)
        outputs = torch.empty_like(outputs).index_copy(0, order, outputs)
        return all_to_all(outputs, self.group, receive_counts, send_counts)


class _GlobalLoadBalancing(NoBalancing):
    """Counts of tokens summed over `groups`, one after the other."""

    groups: list[Group]

    def observe(self, scores: Float[Tensor, "B T E"], counts: Int[Tensor, "B E"]) -> None:
        super().observe(scores, _sum_over(self.groups, counts.sum(dim=0, keepdim=True)))


class _SequenceLoadBalancing(AuxiliaryLoss):
    """Choices counted over the ranks of `groups`, which share each sequence; scores of this rank's part of it.

    Attributes:
        tensor_size: tensor parallel ranks among them. Their gradients are summed, and the loss is a mean over them.
    """

    groups: list[Group]
    tensor_size: int

    def observe(self, scores: Float[Tensor, "B T E"], counts: Int[Tensor, "B E"]) -> None:
        length = scores.shape[1] * math.prod(group.size() for group in self.groups)
        loss = self.loss_of_shares(scores, _sum_over(self.groups, counts) / length)
        value = loss.detach()
        self.loss = value + (loss - value) / self.tensor_size


def _sum_over(groups: list[Group], counts: Tensor) -> Tensor:
    counts = counts.clone()
    for group in groups:
        dist.all_reduce(counts, group=group)
    return counts
