"""Expert parallelism: each rank of the expert axis has some experts of every mixture (Lepikhin et al. 2020, GShard).

Experts are not split. Tokens, sorted by expert, are sent to the ranks of their experts
and back: two all-to-alls a layer. No token is dropped, so the counts are exchanged first.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.moe import AuxiliaryLoss, Experts, NoBalancing, Router, run_experts
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
    """Balance experts over the tokens of all ranks (Qiu et al. 2025, "Demons in the Detail").

    So balancing is the same in any layout.
    """
    axes = ["replicate", "data", "tensor"] if mesh.layout.sequence_parallel else ["replicate", "data"]
    groups = [mesh.group(axis) for axis in axes if mesh.size(axis) > 1]
    ranks = mesh.size("tensor") if mesh.layout.sequence_parallel else 1
    balance_over_groups(model, groups, ranks)


def balance_over_groups(model: nn.Module, groups: list[Group], ranks_per_sequence: int = 1) -> None:
    """Balance experts over the tokens of the ranks of several process groups."""
    for part in model.modules():
        if isinstance(part, Router) and groups:
            specialize(part.load_balancer, _GlobalLoadBalancing, groups=groups, ranks_per_sequence=ranks_per_sequence)


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
        outputs = run_experts(tokens[order], local_ends, *weights, self.activation)
        outputs = torch.empty_like(outputs).index_copy(0, order, outputs)
        return all_to_all(outputs, self.group, receive_counts, send_counts)


class _GlobalLoadBalancing(NoBalancing):
    """Counts of tokens averaged over ranks.

    Attributes:
        groups: process groups to average over, one after the other.
        ranks_per_sequence: ranks that share a sequence. Their gradients are summed, and the auxiliary loss is a mean
            over their tokens.
    """

    groups: list[Group]
    ranks_per_sequence: int

    def observe(self, scores: Float[Tensor, "N E"], counts: Int[Tensor, " E"]) -> None:
        mean = counts.float()
        if self.training:
            for group in self.groups:
                dist.all_reduce(mean, group=group)
                mean /= group.size()
        super().observe(scores, mean)
        if self.training and isinstance(self, AuxiliaryLoss) and isinstance(self.loss, Tensor):
            value = self.loss.detach()
            self.loss = value + (self.loss - value) / self.ranks_per_sequence
