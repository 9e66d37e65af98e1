"""Mixture of experts (Shazeer et al. 2017): a router sends each token to a few of many feed-forwards.

The outputs of the best k experts are summed with the router's weights. No token is dropped: tokens are sorted by expert and
each expert processes all of its own (MegaBlocks, Gale et al. 2022). Load balancing keeps a router from using few experts:
none, an auxiliary loss or a bias (at the end).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.feed_forward import GatedFeedForward, Gating, build_gating
from groundup.model.matmul_precision import cast_for_matmul
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import MoEConfig


class MixtureOfExperts(nn.Module):
    """The feed-forward of a block: router, experts and shared experts."""

    def __init__(self, config: ModelConfig, moe: MoEConfig):
        super().__init__()
        gating = build_gating(config)
        router = SparseMixerRouter if moe.router_activation == "sparsemixer" else Router
        self.router = router(config.hidden_size, moe)
        self.experts = Experts(moe.num_experts, config.hidden_size, moe.intermediate_size, gating, moe.expert_bias)
        self.scale_inputs = moe.scale_inputs
        shared_size = moe.num_shared_experts * moe.intermediate_size
        shared = GatedSharedExperts if moe.shared_expert_gate else GatedFeedForward
        self.shared_experts = (
            shared(config.hidden_size, shared_size, gating, bias=False) if shared_size else ZeroExperts()
        )

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        tokens = cast_for_matmul(x.flatten(0, 1))
        weights, chosen = self.router(tokens, x.shape[0])
        order = chosen.flatten().argsort(stable=True)  # (token, choice) pairs, sorted by expert
        token = order // chosen.shape[1]
        ends = self.router.count_tokens(chosen.flatten()).cumsum(0)
        inputs, factors = tokens[token], weights.flatten()[order, None].to(tokens.dtype)
        outputs = self.experts(inputs * factors, ends) if self.scale_inputs else self.experts(inputs, ends) * factors
        mixed = torch.zeros_like(tokens).index_add(0, token, outputs)
        return mixed.view_as(x) + self.shared_experts(x)


class Router(nn.Linear):
    """The experts of each token and their routing weights, in float32 (Zoph et al. 2022, ST-MoE)."""

    def __init__(self, width: int, moe: MoEConfig):
        super().__init__(width, moe.num_experts, bias=moe.router_bias)
        self.experts_per_token, self.scale = moe.experts_per_token, moe.routed_scale
        self.num_groups, self.groups_per_token = moe.num_expert_groups, moe.experts_groups_per_token
        self.group_top = GROUP_TOP[moe.router_activation]
        self.activation = ROUTER_ACTIVATIONS[moe.router_activation]
        self.normalize = normalize if moe.normalize_scores else nn.Identity()
        self.load_balancer = LOAD_BALANCERS[moe.load_balancing](moe)

    def forward(
        self, x: Float[Tensor, "N D"], num_sequences: int = 1
    ) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
        """Routing weights and indices of each token's experts; `x` is `num_sequences` sequences of equal length."""
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            logits = F.linear(x.float(), self.weight.float(), bias)
        scores = self.activation(logits)
        weights, chosen = self.choose(logits, scores)
        if self.training:
            sequences = (num_sequences, -1)
            self.load_balancer.observe(
                scores.unflatten(0, sequences), self.count_tokens(chosen.unflatten(0, sequences).flatten(1))
            )
        return weights * self.scale, chosen

    def choose(
        self, logits: Float[Tensor, "N E"], scores: Float[Tensor, "N E"]
    ) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
        """The experts with the best scores."""
        selection = self.load_balancer.selection_scores(scores)
        if self.groups_per_token < self.num_groups:
            selection = limit_to_groups(selection, self.num_groups, self.groups_per_token, self.group_top)
        chosen = selection.topk(self.experts_per_token, dim=-1).indices
        return self.normalize(scores.gather(1, chosen)), chosen

    def count_tokens(self, chosen: Int[Tensor, "... N"]) -> Int[Tensor, "... E"]:
        """Tokens per expert."""
        counts = torch.zeros(*chosen.shape[:-1], self.out_features, dtype=torch.long, device=chosen.device)
        return counts.scatter_add_(-1, chosen, torch.ones_like(chosen))


class SparseMixerRouter(Router):
    """One expert after the other, each weighted by a softmax of its own (Liu et al. 2024, GRIN, section 2.2).

    The softmax is over the experts left whose logit is near the best one. The paper's training samples experts; here, as in
    its evaluation, the best one is chosen.
    """

    def __init__(self, width: int, moe: MoEConfig):
        super().__init__(width, moe)
        self.jitter = moe.router_jitter

    def choose(
        self, logits: Float[Tensor, "N E"], scores: Float[Tensor, "N E"]
    ) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
        weights, chosen, left = [], [], logits
        for _ in range(self.experts_per_token):
            best, expert = left.max(dim=-1, keepdim=True)
            far = (best - logits) / torch.maximum(logits.abs(), best) > 2 * self.jitter
            weights.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, expert))
            chosen.append(expert)
            left = left.scatter(-1, expert, -torch.inf)
        return torch.cat(weights, dim=-1), torch.cat(chosen, dim=-1)


def limit_to_groups(
    scores: Float[Tensor, "N E"], num_groups: int, groups_per_token: int, group_top: int
) -> Float[Tensor, "N E"]:
    """Scores outside the best groups of each token become -inf (DeepSeek-V2, section 2.2.2).

    Groups are neighbours, and kept together on a device; a group's score is the sum of its `group_top` best experts.
    """
    groups = scores.unflatten(-1, (num_groups, -1))
    group_scores = groups.topk(min(group_top, groups.shape[-1]), dim=-1).values.sum(-1)
    best = group_scores.topk(groups_per_token, dim=-1).indices
    outside = torch.ones_like(group_scores, dtype=torch.bool).scatter(-1, best, False)
    return groups.masked_fill(outside[..., None], -torch.inf).flatten(-2)


class GatedSharedExperts(GatedFeedForward):
    """Shared experts times sigmoid(gate(x)), one number for each token (Qwen2-MoE)."""

    def __init__(self, width: int, intermediate_size: int, gating: Gating, bias: bool):
        super().__init__(width, intermediate_size, gating, bias)
        self.gate = SharedExpertGate(width, 1, bias=False)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return super().forward(x) * self.gate(cast_for_matmul(x)).sigmoid()


class SharedExpertGate(nn.Linear):
    """A router of one expert; quantization leaves it as it is."""


class Experts(nn.Module):
    """The gated feed-forwards of all experts, each matrix one tensor, with or without biases (E O)."""

    def __init__(self, num_experts: int, width: int, intermediate_size: int, gating: Gating, bias: bool = False):
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, width))
        self.up_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, width, intermediate_size))
        self.gate_bias = nn.Parameter(torch.empty(num_experts, intermediate_size)) if bias else None
        self.up_bias = nn.Parameter(torch.empty(num_experts, intermediate_size)) if bias else None
        self.down_bias = nn.Parameter(torch.empty(num_experts, width)) if bias else None
        self.gating = gating

    def forward(self, x: Float[Tensor, "M D"], ends: Int[Tensor, " E"]) -> Float[Tensor, "M D"]:
        """Rows of `x` are sorted by expert; those of expert e end before row ends[e]."""
        biases = (self.gate_bias, self.up_bias, self.down_bias)
        return run_experts(x, ends, self.gate_proj, self.up_proj, self.down_proj, self.gating, biases)


def run_experts(
    x: Float[Tensor, "M D"],
    ends: Int[Tensor, " E"],
    gate_proj: Float[Tensor, "E F D"],
    up_proj: Float[Tensor, "E F D"],
    down_proj: Float[Tensor, "E D F"],
    gating: Gating,
    biases: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> Float[Tensor, "M D"]:
    """The gated feed-forward of each row's expert; `biases`: of gate, up and down, (E F), (E F) and (E D)."""
    gate, up = grouped_linear(x, gate_proj, ends, biases[0]), grouped_linear(x, up_proj, ends, biases[1])
    return grouped_linear(gating(gate, up), down_proj, ends, biases[2])


def grouped_linear(
    x: Float[Tensor, "M I"],
    weight: Float[Tensor, "E O I"],
    ends: Int[Tensor, " E"],
    bias: Float[Tensor, "E O"] | None = None,
) -> Float[Tensor, "M O"]:
    """Each row of `x` times the matrix of its group, plus its bias."""
    if bias is not None:
        counts = ends.diff(prepend=ends.new_zeros(1))
        rows = bias.to(x.dtype).repeat_interleave(counts, dim=0, output_size=x.shape[0])
        return grouped_linear(x, weight, ends) + rows
    weight = weight.to(x.dtype)
    if x.device.type == "cuda" and x.dtype == torch.bfloat16:
        return F.grouped_mm(x, weight.transpose(1, 2), offs=ends.to(torch.int32))
    bounds = pairwise([0, *ends.tolist()])
    return torch.cat(
        [F.linear(x[begin:end], matrix) for (begin, end), matrix in zip(bounds, weight.unbind(), strict=True)]
    )


def normalize(scores: Float[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    """Scores divided by their sum for each token."""
    return scores / (scores.sum(dim=-1, keepdim=True) + 1e-20)


class NoBalancing(nn.Module):
    """No load balancing: the experts with the best scores."""

    def __init__(self, moe: MoEConfig):
        super().__init__()
        self.rate = moe.load_balancing_rate

    def selection_scores(self, scores: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """The scores by which experts are chosen."""
        return scores

    def observe(self, scores: Float[Tensor, "B T E"], counts: Int[Tensor, "B E"]) -> None:
        """Record the tokens per expert of one training pass."""


class AuxiliaryLoss(NoBalancing):
    """rate * E * sum over experts of (choices a token) * (mean score) of each sequence, mean over sequences.

    The product is that of Fedus et al. 2021, eq. 4; per sequence as in DeepSeek-V3, section 2.1.2, so that it is the same for
    any micro-batch size and layout (decision 012).
    """

    loss: Tensor | float = 0.0
    weight: Tensor | float = 1.0

    def observe(self, scores: Float[Tensor, "B T E"], counts: Int[Tensor, "B E"]) -> None:
        self.loss = self.loss_of_shares(scores, counts / scores.shape[1])

    def loss_of_shares(self, scores: Float[Tensor, "B T E"], shares: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
        """The loss of the given choices a token."""
        return self.rate * scores.shape[-1] * (shares * scores.mean(dim=1)).sum(dim=-1).mean()


class ExpertBias(NoBalancing):
    """A bias on the choice of experts, not on their weights, that rises for idle experts (Wang et al. 2024).

    `update_expert_bias` updates it after each optimizer step.
    """

    bias: Tensor
    load: Tensor

    def __init__(self, moe: MoEConfig):
        super().__init__(moe)
        self.register_buffer("bias", torch.zeros(moe.num_experts))
        self.num_experts = moe.num_experts
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Set the load since the last update to zero, on torch's default device."""
        self.register_buffer("load", torch.zeros(self.num_experts), persistent=False)

    def selection_scores(self, scores: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        return scores + self.bias

    def observe(self, scores: Float[Tensor, "B T E"], counts: Int[Tensor, "B E"]) -> None:
        self.load += counts.sum(dim=0)

    def update(self) -> None:
        self.bias += self.rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class ZeroExperts(nn.Module):
    """Shared experts of a layer without any: adds zero."""

    def forward(self, x: Tensor) -> float:
        return 0.0


ROUTER_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sparsemixer": lambda logits: logits.softmax(-1),
}
GROUP_TOP = {"softmax": 1, "sigmoid": 2, "sparsemixer": 1}
"""Experts that decide the score of their group: the best one in DeepSeek-V2, the two best in DeepSeek-V3."""
LOAD_BALANCERS = {"none": NoBalancing, "auxiliary_loss": AuxiliaryLoss, "bias": ExpertBias}


def pop_aux_loss(model: nn.Module) -> Tensor | float:
    """The auxiliary loss of the last pass, summed over layers, which is then reset."""
    total: Tensor | float = 0.0
    for module in model.modules():
        if isinstance(module, AuxiliaryLoss):
            total, module.loss = total + module.weight * module.loss, 0.0
    return total


def set_aux_loss_weight(model: nn.Module, weight: Tensor | float) -> None:
    """Multiply the auxiliary loss by `weight` in passes to come.

    A micro-batch is weighted by its predicted positions, but the auxiliary loss is a mean over all positions: without
    this factor it would depend on which micro-batch and rank holds the masked ones.
    """
    for module in model.modules():
        if isinstance(module, AuxiliaryLoss):
            module.weight = weight


def update_expert_bias(model: nn.Module) -> None:
    """Update the expert biases of all layers that have one; call it after each optimizer step."""
    for module in model.modules():
        if isinstance(module, ExpertBias):
            module.update()


def reset_expert_load(model: nn.Module) -> None:
    """Forget the load since the last update; call it when the gradient is dropped without an optimizer step."""
    for module in model.modules():
        if isinstance(module, ExpertBias):
            module.load.zero_()
