"""Mixture of experts against a loop over tokens and experts; load balancing."""

import pytest
import torch
from torch import nn

from groundup.model.moe import MixtureOfExperts, grouped_linear, pop_aux_loss, update_expert_bias

MOE = {"num_experts": 5, "experts_per_token": 2}


def reference_output(layer: MixtureOfExperts, x: torch.Tensor, moe) -> torch.Tensor:
    out = torch.zeros_like(x)
    for b, t in torch.cartesian_prod(torch.arange(x.shape[0]), torch.arange(x.shape[1])).tolist():
        token = x[b, t]
        logits = layer.router.weight @ token + (layer.router.bias if moe.router_bias else 0.0)
        scores = logits.softmax(-1) if moe.router_activation == "softmax" else logits.sigmoid()
        selection = layer.router.load_balancer.selection_scores(scores[None])[0]
        size, best = moe.num_experts // moe.num_expert_groups, 2 if moe.router_activation == "sigmoid" else 1
        group_scores = [sum(sorted(group)[-best:]) for group in selection.split(size)]
        groups = sorted(range(len(group_scores)), key=group_scores.__getitem__)[-moe.experts_groups_per_token :]
        allowed = [e for e in range(moe.num_experts) if e // size in groups]
        chosen = sorted(allowed, key=lambda e: -selection[e])[: moe.experts_per_token]
        total = sum(scores[e] for e in chosen) if moe.normalize_scores else 1.0
        for e in chosen:
            weight = moe.routed_scale * scores[e] / total
            inputs, factor = (token * weight, 1.0) if moe.scale_inputs else (token, weight)
            gate, up = layer.experts.gate_proj[e] @ inputs, layer.experts.up_proj[e] @ inputs
            if moe.expert_bias:
                gate, up = gate + layer.experts.gate_bias[e], up + layer.experts.up_bias[e]
            down = layer.experts.down_proj[e] @ (nn.functional.silu(gate) * up)
            out[b, t] += factor * (down + layer.experts.down_bias[e] if moe.expert_bias else down)
    return out


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"router_activation": "sigmoid"},
        {"normalize_scores": False},
        {"experts_per_token": 1},
        {"experts_per_token": 5},
        {"routed_scale": 2.5},
        {"scale_inputs": True, "router_activation": "sigmoid", "normalize_scores": False},
        {"router_bias": True, "expert_bias": True},
        {"load_balancing": "bias"},
        {"num_experts": 6, "num_expert_groups": 3},
        {"num_experts": 12, "num_expert_groups": 4, "experts_groups_per_token": 2, "router_activation": "sigmoid"},
    ],
)
def test_output_is_the_sum_of_the_chosen_experts(config, knobs):
    config = config(moe=MOE | knobs, init_std=0.3)
    layer = MixtureOfExperts(config, config.moe)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    if config.moe.load_balancing == "bias":
        nn.init.normal_(layer.router.load_balancer.bias, std=0.3)
    layer.eval()
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(layer(x), reference_output(layer, x, config.moe))


def test_biases_of_router_and_experts(config):
    config = config(moe=MOE | {"expert_bias": True, "router_bias": True})
    layer = MixtureOfExperts(config, config.moe)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    x, experts = torch.randn(1, 9, 24), layer.experts
    for token, found in zip(x[0], layer(x)[0], strict=True):
        scores = (layer.router.weight @ token + layer.router.bias).softmax(-1)
        weights, chosen = scores.topk(2)
        expected = torch.zeros(24)
        for weight, e in zip(weights / weights.sum(), chosen.tolist(), strict=True):
            gate = experts.gate_proj[e] @ token + experts.gate_bias[e]
            up = experts.up_proj[e] @ token + experts.up_bias[e]
            expected += weight * (experts.down_proj[e] @ (nn.functional.silu(gate) * up) + experts.down_bias[e])
        torch.testing.assert_close(found, expected)


def test_shared_experts_apply_to_every_token(config):
    config = config(moe=MOE | {"num_shared_experts": 2})
    layer = MixtureOfExperts(config, config.moe)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    assert layer.shared_experts.up_proj.weight.shape == (2 * config.moe.intermediate_size, 24)
    x = torch.randn(2, 3, 24)
    torch.testing.assert_close(layer(x) - reference_output(layer, x, config.moe), layer.shared_experts(x))


def test_no_token_is_dropped(config):
    config = config(moe={"num_experts": 4, "experts_per_token": 1})
    layer = MixtureOfExperts(config, config.moe)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    x = torch.randn(1, 1, 24).repeat(1, 50, 1)  # all alike: all go to one expert
    y = layer(x)
    assert y[0, 0].norm() > 0
    torch.testing.assert_close(y, y[:, :1].expand_as(y))


def test_gradients_of_chosen_experts_and_router(config):
    config = config(moe=MOE)
    layer = MixtureOfExperts(config, config.moe)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    x = torch.randn(1, 4, 24)
    _, chosen = layer.router(x[0])
    layer(x).square().sum().backward()
    busy = {e for e in range(5) if layer.experts.gate_proj.grad[e].abs().sum() > 0}
    assert busy == set(chosen.flatten().tolist())
    assert layer.router.weight.grad.abs().sum() > 0


def test_grouped_linear_with_empty_groups():
    x, weight = torch.randn(5, 3), torch.randn(4, 2, 3)
    found = grouped_linear(x, weight, torch.tensor([0, 2, 2, 5]))
    torch.testing.assert_close(found, torch.cat((x[:2] @ weight[1].T, x[2:] @ weight[3].T)))


def loads(config, steps: int) -> torch.Tensor:
    """How choices balanced over experts after training a router that starts by preferring one of them."""
    layer = MixtureOfExperts(config, config.moe)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        layer.router.weight[0] += 0.05
    x = torch.randn(8, 16, 24) + 1.0
    optimizer = torch.optim.Adam([layer.router.weight], lr=0.01)
    for _ in range(steps):
        layer(x)
        loss = pop_aux_loss(layer)
        if isinstance(loss, torch.Tensor):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        update_expert_bias(layer)
    return layer.router.count_tokens(layer.router(x.flatten(0, 1))[1].flatten()) / (128 * config.moe.experts_per_token)


@pytest.mark.parametrize(("balancing", "rate"), [("auxiliary_loss", 1.0), ("bias", 0.01)])
def test_load_balancing_evens_the_load(config, balancing, rate):
    torch.manual_seed(7)
    crowded = loads(config(moe=MOE), 1)
    torch.manual_seed(7)
    balanced = loads(config(moe=MOE | {"load_balancing": balancing, "load_balancing_rate": rate}), 50)
    assert crowded.max() > 0.4
    assert balanced.max() < 0.3


def test_auxiliary_loss_value_and_evaluation_mode(config):
    config = config(
        moe={"num_experts": 4, "experts_per_token": 1, "load_balancing": "auxiliary_loss", "load_balancing_rate": 2.0}
    )
    layer = MixtureOfExperts(config, config.moe)
    balance = layer.router.load_balancer
    balance.observe(torch.full((2, 8, 4), 0.25), torch.full((2, 4), 2))
    assert pop_aux_loss(layer) == pytest.approx(2.0)  # rate * E * E * (1/E) * (1/E)
    assert pop_aux_loss(layer) == 0.0  # reset by the first call
    layer.eval()
    layer(torch.randn(1, 4, 24))
    assert pop_aux_loss(layer) == 0.0


def test_expert_bias_changes_the_choice_but_not_the_weights(config):
    config = config(moe={"num_experts": 3, "experts_per_token": 1, "load_balancing": "bias", "normalize_scores": False})
    layer = MixtureOfExperts(config, config.moe)
    x = torch.randn(4, 24)
    nn.init.normal_(layer.router.weight)
    with torch.no_grad():
        layer.router.load_balancer.bias[1] = 10.0
    weights, chosen = layer.router(x)
    assert (chosen == 1).all()
    torch.testing.assert_close(weights[:, 0], (x @ layer.router.weight.T).softmax(-1)[:, 1])
