"""Losses of preference tuning equal their equations, written out plainly, and behave as their papers say."""

import math

import pytest
import torch

from groundup.finetune.preference.preference_losses import (
    dpo_loss,
    ipo_loss,
    kto_loss,
    log1mexp,
    orpo_loss,
    reward_loss,
    simpo_loss,
)

CHOSEN, REJECTED = torch.tensor([0.7, -3.0, 0.0]), torch.tensor([-0.4, 2.0, 0.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs() -> list[tuple[float, float]]:
    return list(zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True))


def test_dpo():
    expected = [-math.log(sigmoid(0.3 * (w - x))) for w, x in pairs()]
    assert dpo_loss(CHOSEN, REJECTED, beta=0.3).tolist() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_mixes_the_loss_of_the_swapped_pair():
    mixed = 0.9 * dpo_loss(CHOSEN, REJECTED, beta=0.3) + 0.1 * dpo_loss(REJECTED, CHOSEN, beta=0.3)
    torch.testing.assert_close(dpo_loss(CHOSEN, REJECTED, beta=0.3, label_smoothing=0.1), mixed)


def test_conservative_dpo_is_lowest_where_the_model_is_as_sure_as_the_labels():
    difference = torch.tensor([math.log(0.9 / 0.1) / 0.3], requires_grad=True)
    dpo_loss(difference, torch.zeros(1), beta=0.3, label_smoothing=0.1).sum().backward()
    assert difference.grad is not None
    assert difference.grad.abs().item() < 1e-6


def test_ipo():
    expected = [(w - x - 1 / (2 * 0.2)) ** 2 for w, x in pairs()]
    assert ipo_loss(CHOSEN, REJECTED, beta=0.2).tolist() == pytest.approx(expected, rel=1e-5)


def test_kto():
    desirable, kl = torch.tensor([True, False, True]), 0.3
    found = kto_loss(CHOSEN, desirable, torch.tensor(kl), beta=0.5, desirable_weight=1.2, undesirable_weight=0.8)
    expected = [
        1.2 * (1 - sigmoid(0.5 * (0.7 - kl))),
        0.8 * (1 - sigmoid(0.5 * (kl + 3.0))),
        1.2 * (1 - sigmoid(-0.5 * kl)),
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_orpo():
    chosen, rejected = torch.tensor([-0.5, -2.0]), torch.tensor([-1.5, -0.1])

    def odds(x: float) -> float:
        return math.exp(x) / (1 - math.exp(x))

    expected = [
        -w - 0.1 * math.log(sigmoid(math.log(odds(w) / odds(x))))
        for w, x in zip(chosen.tolist(), rejected.tolist(), strict=True)
    ]
    assert orpo_loss(chosen, rejected, beta=0.1).tolist() == pytest.approx(expected, rel=1e-5)


def test_simpo():
    expected = [-math.log(sigmoid(2 * (w - x) - 1.0)) for w, x in pairs()]
    assert simpo_loss(CHOSEN, REJECTED, beta=2.0, gamma=1.0).tolist() == pytest.approx(expected, rel=1e-5)


def test_reward_loss_of_equal_rewards_is_that_of_a_coin():
    assert reward_loss(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("x", [-1e-8, -1e-4, -0.5, -0.7, -5.0, -80.0])
def test_log1mexp(x):
    value = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    found = log1mexp(value)
    found.backward()
    assert found.item() == pytest.approx(math.log(-math.expm1(x)), rel=1e-9)
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(-math.exp(x) / -math.expm1(x), rel=1e-6)


def test_certain_responses_have_finite_losses_and_gradients():
    chosen = torch.zeros(1, requires_grad=True)
    loss = orpo_loss(chosen, torch.tensor([-1.0]), beta=0.1)
    loss.backward()
    assert loss.isfinite().all()
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()
