"""Losses of learning from rewards: the clipped policy gradient with a penalty for leaving the reference model.

With log-probabilities l of the tokens under the policy that is trained, l_old under the policy that sampled them, l_ref under
the reference, and the advantage A of the answer:

    ratio = exp(l - l_old)
    gain  = min(ratio A, clip(ratio, 1 - e, 1 + e) A)           PPO (Schulman et al. 2017), equation 7
    kl    = exp(l_ref - l) - (l_ref - l) - 1                    k3 of Schulman 2020, "Approximating KL divergence"

    grpo     mean over answers of the mean over their tokens of -(gain - beta kl)      DeepSeekMath, equation 3
    dr_grpo  sum over all tokens of -(gain - beta kl), / (answers x longest answer)    Liu et al. 2025: no bias to length
    rloo     mean over answers of -gain, with the ratio of the whole answer; the KL is part of the reward   Ahmadian et al. 2024

The first update after sampling has ratio 1: then the gradient is that of REINFORCE, and nothing is clipped.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from groundup.finetune.reinforcement.answer_advantages import PolicyLossName


@dataclass(frozen=True)
class PolicyLoss:
    """The loss, and by answer what is worth watching.

    Attributes:
        loss: mean over the answers.
        kl: sum over the tokens of an answer; 0 without a reference.
        clipped: share of the tokens (rloo: 1 or 0, of the answer) whose ratio is outside of the clip range, with the sign of
            the advantage, so that they have no gradient.
    """

    loss: Float[Tensor, ""]
    kl: Float[Tensor, " B"]
    clipped: Float[Tensor, " B"]


def reference_kl(log_probs: Float[Tensor, "..."], reference_log_probs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Estimate of KL(policy || reference) from one token that the policy sampled, in nats: never negative, no bias."""
    difference = reference_log_probs - log_probs
    return difference.exp() - difference - 1


def clipped_gain(
    log_ratio: Float[Tensor, "..."], advantages: Float[Tensor, "..."], clip_range: float
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """(the gain, 1 where the clip range leaves no gradient)."""
    ratio = log_ratio.exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)
    clipped = ((ratio < 1 - clip_range) & (advantages < 0)) | ((ratio > 1 + clip_range) & (advantages > 0))
    return gain, clipped.float()


def policy_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Shaped[Tensor, "B T"],
    *,
    loss: PolicyLossName = "grpo",
    clip_range: float = 0.2,
    kl_coefficient: float = 0.0,
    reference_log_probs: Float[Tensor, "B T"] | None = None,
    max_answer_tokens: int = 1,
) -> PolicyLoss:
    """The loss of B answers, whose tokens are where `mask` is nonzero.

        advantages = group_advantages(rewards, "grpo").flatten()
        policy_loss(log_probs, old_log_probs, advantages, mask, clip_range=0.2).loss.backward()

    Args:
        reference_log_probs: needed for a KL coefficient above 0. For rloo the KL is in the rewards already: it is only measured.
        max_answer_tokens: of dr_grpo, the number of tokens that every answer is divided by.
    """
    if kl_coefficient and reference_log_probs is None:
        raise ValueError("kl_coefficient above 0 without reference_log_probs")
    mask = mask.float()
    lengths = mask.sum(dim=1).clamp(min=1)
    kl = torch.zeros_like(log_probs) if reference_log_probs is None else reference_kl(log_probs, reference_log_probs)
    kl = kl * mask
    log_ratio = (log_probs - old_log_probs) * mask
    if loss == "rloo":
        gain, clipped = clipped_gain(log_ratio.sum(dim=1), advantages, clip_range)
        return PolicyLoss(-gain.mean(), kl.sum(dim=1).detach(), clipped)
    gain, clipped = clipped_gain(log_ratio, advantages[:, None], clip_range)
    token_losses = (kl_coefficient * kl - gain) * mask
    divisors = lengths if loss == "grpo" else torch.full_like(lengths, max_answer_tokens)
    share = (clipped * mask).sum(dim=1) / lengths
    return PolicyLoss((token_losses.sum(dim=1) / divisors).mean(), kl.sum(dim=1).detach(), share)
