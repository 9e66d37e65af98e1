"""Losses of preference tuning, each beside its equation. No model and no batches: numbers of responses in, one loss each out.

y_w is the chosen response to a prompt x, y_l the rejected one, log p a log-probability under the model that is trained, and
log r(y) = log p(y|x) - log p_ref(y|x) its ratio to the reference, which is the model before the training.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

PairValues = Float[Tensor, " N"]
"""One number a pair or response."""

PreferenceLossName = Literal["dpo", "ipo", "kto", "orpo", "simpo", "reward"]


def dpo_loss(
    chosen_ratio: PairValues, rejected_ratio: PairValues, *, beta: float, label_smoothing: float = 0.0
) -> PairValues:
    """-log sigmoid(beta (log r(y_w) - log r(y_l))) (Rafailov et al. 2023, equation 7), of sums over the response tokens.

    Args:
        beta: the strength of the pull towards the reference.
        label_smoothing: the part of the pairs whose labels are taken to be wrong (Mitchell 2023, conservative DPO); the loss
            is then lowest at a finite difference.
    """
    difference = beta * (chosen_ratio - rejected_ratio)
    return -(1 - label_smoothing) * logsigmoid(difference) - label_smoothing * logsigmoid(-difference)


def ipo_loss(chosen_ratio: PairValues, rejected_ratio: PairValues, *, beta: float) -> PairValues:
    """(log r(y_w) - log r(y_l) - 1 / (2 beta))^2 (Azar et al. 2023, equation 17, with tau = beta).

    Of means over the response tokens, as in the experiments of the authors: of sums, the target would ask less of longer
    responses.
    """
    return (chosen_ratio - rejected_ratio - 1 / (2 * beta)).square()


def kto_loss(
    ratio: PairValues,
    desirable: Bool[Tensor, " N"],
    kl: Float[Tensor, ""] | PairValues,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> PairValues:
    """w (1 - sigmoid(beta (log r(y) - z))), with the sign of the difference turned for undesirable responses.

    Ethayarajh et al. 2024, equation 8; no pairs are needed. z is the KL divergence of the model from the reference, a constant
    in the gradient: the mean log r of responses to other prompts, at least 0.

    Args:
        ratio: log r of each response, a sum over its tokens.
        kl: z.
        desirable_weight, undesirable_weight: w of each kind; with n of each, the authors keep the ratio of w n to w n
            between 1 and 4/3.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(beta * sign * (ratio - kl)))


def orpo_loss(chosen_mean: PairValues, rejected_mean: PairValues, *, beta: float) -> PairValues:
    """-log p(y_w) - beta log sigmoid(log odds(y_w) - log odds(y_l)), with odds(y) = p(y) / (1 - p(y)).

    Hong et al. 2024, equations 6 and 7 (beta is their lambda), of means over the response tokens; there is no reference.
    """
    log_odds = (chosen_mean - rejected_mean) - (log1mexp(chosen_mean) - log1mexp(rejected_mean))
    return -chosen_mean - beta * logsigmoid(log_odds)


def simpo_loss(
    chosen_mean: PairValues, rejected_mean: PairValues, *, beta: float, gamma: float, label_smoothing: float = 0.0
) -> PairValues:
    """-log sigmoid(beta (log p(y_w) - log p(y_l)) - gamma) (Meng et al. 2024, equation 6), of means over the response tokens.

    There is no reference: the mean, the reward of the method, does not grow with the length.

    Args:
        gamma: the margin between the rewards that is asked for.
    """
    difference = beta * (chosen_mean - rejected_mean) - gamma
    return -(1 - label_smoothing) * logsigmoid(difference) - label_smoothing * logsigmoid(-difference)


def reward_loss(chosen_reward: PairValues, rejected_reward: PairValues) -> PairValues:
    """-log sigmoid(reward(y_w) - reward(y_l)): the model of Bradley and Terry (1952), as in Ouyang et al. 2022, equation 1."""
    return -logsigmoid(chosen_reward - rejected_reward)


def log1mexp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 - exp(x)) for x < 0, exact near 0 and far from it (Maechler 2012).

    Values are at least one rounding error below 0: certain responses have finite odds.
    """
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -0.6931472
    # Both branches are finite everywhere, so that the gradient of the one not taken is not nan.
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -0.5))), torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    )


MEAN_LOSSES: tuple[PreferenceLossName, ...] = ("ipo", "orpo", "simpo")
"""Losses of means over the response tokens; the others take sums."""

REFERENCE_LOSSES: tuple[PreferenceLossName, ...] = ("dpo", "ipo", "kto")
"""Losses that need log-probabilities of the reference."""

PAIR_LOSSES: dict[PreferenceLossName, Callable[..., PairValues]] = {
    "dpo": dpo_loss,
    "ipo": ipo_loss,
    "orpo": orpo_loss,
    "simpo": simpo_loss,
    "reward": reward_loss,
}
"""Losses of pairs of numbers: of ratios to the reference, of log-probabilities, or of rewards."""
