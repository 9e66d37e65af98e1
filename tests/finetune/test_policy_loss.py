"""Advantages and losses beside a slow version in plain Python, and their gradients."""

import math
import statistics
from typing import Any

import pytest
import torch

from groundup.finetune.reinforcement.answer_advantages import group_advantages
from groundup.finetune.reinforcement.policy_gradient import clipped_gain, policy_loss, reference_kl

REWARDS = [[1.0, 0.0, 0.0, 0.5], [1.0, 1.0, 1.0, 1.0], [0.25, 0.0, 2.0, -1.0]]


def slow_advantages(group: list[float], loss: str) -> list[float]:
    result = []
    for index, reward in enumerate(group):
        others = group[:index] + group[index + 1 :]
        baseline = statistics.mean(others if loss == "rloo" else group)
        scale = statistics.stdev(group) + 1e-4 if loss == "grpo" else 1.0
        result.append((reward - baseline) / scale)
    return result


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "rloo"])
def test_advantages(loss):
    expected = torch.tensor([slow_advantages(group, loss) for group in REWARDS])
    torch.testing.assert_close(group_advantages(torch.tensor(REWARDS), loss), expected, rtol=1e-5, atol=1e-5)


def test_equal_rewards_teach_nothing():
    assert not group_advantages(torch.ones(2, 4)).any()


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match="groups of 1, expected at least 2"):
        group_advantages(torch.ones(3, 1))


def random_batch() -> dict[str, Any]:
    torch.manual_seed(1)
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]])
    old = -torch.rand(3, 5)
    return {
        "log_probs": (old + 0.4 * torch.randn(3, 5)).requires_grad_(),
        "old_log_probs": old,
        "reference_log_probs": old + 0.2 * torch.randn(3, 5),
        "advantages": torch.tensor([1.0, -0.7, 0.4]),
        "mask": mask,
    }


def slow_loss(batch: dict[str, Any], loss: str, clip: float, beta: float, longest: int) -> float:
    answers = []
    for row in range(3):
        where = [t for t in range(5) if batch["mask"][row, t]]
        advantage = float(batch["advantages"][row])
        values = {name: [float(batch[name][row, t].detach()) for t in where] for name in batch if "log_probs" in name}
        ratios = [math.exp(a - b) for a, b in zip(values["log_probs"], values["old_log_probs"], strict=True)]
        if loss == "rloo":
            ratio = math.prod(ratios)
            answers.append(-min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage))
            continue
        tokens = []
        for ratio, log_prob, reference in zip(ratios, values["log_probs"], values["reference_log_probs"], strict=True):
            gain = min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
            kl = math.exp(reference - log_prob) - (reference - log_prob) - 1
            tokens.append(-(gain - beta * kl))
        answers.append(sum(tokens) / (len(tokens) if loss == "grpo" else longest))
    return sum(answers) / 3


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_loss(loss, beta):
    batch = random_batch()
    result = policy_loss(**batch, loss=loss, clip_range=0.2, kl_coefficient=beta, max_answer_tokens=7)
    assert result.loss.item() == pytest.approx(slow_loss(batch, loss, 0.2, beta, 7), rel=1e-5)


def test_gradient_of_the_first_update_is_reinforce():
    batch = random_batch()
    batch["old_log_probs"] = batch["log_probs"].detach()
    policy_loss(**batch, loss="grpo").loss.backward()
    lengths = batch["mask"].sum(dim=1, keepdim=True)
    expected = -batch["advantages"][:, None] * batch["mask"] / lengths / 3
    torch.testing.assert_close(batch["log_probs"].grad, expected)


def test_clipped_tokens_have_no_gradient_and_are_counted():
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.0], requires_grad=True)
    gain, clipped = clipped_gain(log_ratio, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]), 0.2)
    assert clipped.tolist() == [1, 0, 0, 1, 0]
    gain.sum().backward()
    assert log_ratio.grad is not None
    assert (log_ratio.grad == 0).tolist() == [True, False, False, True, False]


def test_kl_estimate_has_no_bias():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    estimate = (policy * reference_kl(policy.log(), reference.log())).sum()
    torch.testing.assert_close(estimate, (policy * (policy / reference).log()).sum())


def test_kl_without_reference_is_refused():
    batch: dict[str, Any] = random_batch() | {"reference_log_probs": None}
    with pytest.raises(ValueError, match="without reference_log_probs"):
        policy_loss(**batch, kl_coefficient=0.1)
