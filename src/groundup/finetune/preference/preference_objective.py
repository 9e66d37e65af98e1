"""Preference losses of a model on a batch: log-probabilities, rewards and the loss of each pair or response."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from groundup.finetune.preference.preference_losses import (
    MEAN_LOSSES,
    PAIR_LOSSES,
    REFERENCE_LOSSES,
    PreferenceLossName,
    kto_loss,
    reward_loss,
)
from groundup.finetune.response_log_probs import masked_log_probs
from groundup.model.moe import pop_aux_loss
from groundup.train.micro_batch import DEFAULT_TOKENS
from groundup.train.objectives import Batch, Objective

Score = Callable[[nn.Module, Batch, "PreferenceLoss"], dict[str, Tensor]]
"""(model, batch, settings) -> loss, rewards and log-probabilities of each pair or response."""


@dataclass(frozen=True)
class PreferenceLoss:
    """A preference loss and its options; see preference_losses.py."""

    name: PreferenceLossName
    beta: float
    label_smoothing: float = 0.0
    simpo_gamma: float = 1.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    @property
    def options(self) -> dict[str, float]:
        """The arguments of the loss function."""
        options = {} if self.name == "reward" else {"beta": self.beta}
        if self.name in ("dpo", "simpo"):
            options["label_smoothing"] = self.label_smoothing
        if self.name == "simpo":
            options["gamma"] = self.simpo_gamma
        if self.name == "kto":
            options |= {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        return options

    @property
    def uses_reference(self) -> bool:
        return self.name in REFERENCE_LOSSES

    def objective(self) -> Objective:
        """The mean loss over the pairs or responses of a batch."""
        score = SCORES.get(self.name, score_pairs)
        prepare = estimate_kl if self.name == "kto" else None
        return Objective(partial(_mean_loss, score, self), lambda batch: len(batch["tokens"]), prepare)


def _mean_loss(score: Score, settings: PreferenceLoss, model: nn.Module, batch: Batch) -> Tensor:
    return score(model, batch, settings)["loss"].mean() + pop_aux_loss(model)


def score_pairs(model: nn.Module, batch: Batch, settings: PreferenceLoss) -> dict[str, Float[Tensor, " N"]]:
    """loss, chosen_reward, rejected_reward, chosen_log_prob and rejected_log_prob (a token) of each pair of PairBatches.

    The reward is beta log r with a reference (Rafailov et al. 2023, section 5.1), beta times the mean log-probability of a
    token without one.
    """
    rows = len(batch["tokens"])
    sums, lengths = (part.view(rows, 2) for part in response_sums(model, *_unfold(batch)))
    means = sums / lengths
    values = means if settings.name in MEAN_LOSSES else sums
    if settings.uses_reference:
        reference = batch["reference"].to(sums.device)
        values = values - (reference / lengths if settings.name in MEAN_LOSSES else reference)
    loss = PAIR_LOSSES[settings.name](values[:, 0], values[:, 1], **settings.options)
    rewards = settings.beta * values.detach()
    means = means.detach()
    return {
        "loss": loss, "chosen_reward": rewards[:, 0], "rejected_reward": rewards[:, 1], "chosen_log_prob": means[:, 0],
        "rejected_log_prob": means[:, 1],
    }  # fmt: skip


def score_rewards(model: nn.Module, batch: Batch, settings: PreferenceLoss) -> dict[str, Float[Tensor, " N"]]:
    """loss, chosen_reward and rejected_reward of each pair of PairBatches, by a RewardModel."""
    rows = len(batch["tokens"])
    rewards = model(_unfold(batch)[0], batch["lengths"].flatten()).view(rows, 2)
    loss = reward_loss(rewards[:, 0], rewards[:, 1])
    return {"loss": loss, "chosen_reward": rewards[:, 0].detach(), "rejected_reward": rewards[:, 1].detach()}


def score_labelled(model: nn.Module, batch: Batch, settings: PreferenceLoss) -> dict[str, Float[Tensor, " N"]]:
    """loss, reward, desirable (1 or 0) and log_prob (a token) of each response of LabelledBatches, after `estimate_kl`."""
    sums, lengths = response_sums(model, batch["tokens"], batch["mask"])
    ratio = sums - batch["reference"]
    desirable = batch["desirable"].bool()
    loss = kto_loss(ratio, desirable, batch["kl"], **settings.options)
    return {
        "loss": loss, "reward": settings.beta * ratio.detach(), "desirable": desirable.float(),
        "log_prob": sums.detach() / lengths,
    }  # fmt: skip


@torch.no_grad()
def estimate_kl(model: nn.Module, batch: Batch) -> Batch:
    """`batch` with kl (N), the same for all rows, for its fields of answers to other prompts.

    The mean of log r of these answers, at least 0 (Ethayarajh et al. 2024, section 4). It is one number for the whole batch,
    whatever the size of its micro-batches.
    """
    device = next(model.parameters()).device
    tokens, mask = batch["kl_tokens"], batch["kl_mask"]
    size = max(1, DEFAULT_TOKENS[device.type] // tokens.shape[1])
    sums = [
        response_sums(model, tokens[begin : begin + size].to(device), mask[begin : begin + size].to(device))[0]
        for begin in range(0, len(tokens), size)
    ]
    pop_aux_loss(model)
    kl = (torch.cat(sums).cpu() - batch["kl_reference"].cpu()).mean().clamp(min=0)
    kept = {name: rows for name, rows in batch.items() if not name.startswith("kl_")}
    return kept | {"kl": kl.expand(len(tokens))}


def response_sums(
    model: nn.Module, tokens: Shaped[Tensor, "B T"], mask: Shaped[Tensor, "B T"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The log-probability of each response, a sum over its tokens, and the number of these."""
    return masked_log_probs(model, tokens, mask).sum(dim=1), mask.sum(dim=1).float()


def _unfold(batch: Batch) -> tuple[Shaped[Tensor, "M T"], Shaped[Tensor, "M T"]]:
    """Tokens and masks with one response a row: chosen, rejected, chosen, ..."""
    rows, width = batch["tokens"].shape
    return batch["tokens"].view(2 * rows, width // 2), batch["mask"].view(2 * rows, width // 2)


SCORES: dict[PreferenceLossName, Score] = {"kto": score_labelled, "reward": score_rewards}
"""Of the losses whose values are no log-probabilities of pairs."""
