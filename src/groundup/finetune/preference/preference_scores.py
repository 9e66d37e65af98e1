"""Scores of a model on held-out preferences: loss, accuracy, rewards, log-probabilities, and their confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.evaluate.intervals import paired_share_interval, share_interval
from groundup.finetune.preference.preference_objective import SCORES, PreferenceLoss, estimate_kl, score_pairs
from groundup.model.moe import pop_aux_loss
from groundup.train.mixed_precision import autocast
from groundup.train.objectives import Batch


@dataclass(frozen=True)
class PreferenceScores:
    """Values of held-out pairs, or of a better and a worse response where there are no pairs.

    Attributes:
        loss: of each pair or response.
        chosen_reward, rejected_reward: beta log r, or the mean log-probability of a token times beta without a reference.
        chosen_log_prob, rejected_log_prob: mean of a token, in nats; None of a reward model.
    """

    loss: Float[Tensor, " M"]
    chosen_reward: Float[Tensor, " N"]
    rejected_reward: Float[Tensor, " N"]
    chosen_log_prob: Float[Tensor, " N"] | None = None
    rejected_log_prob: Float[Tensor, " N"] | None = None

    @property
    def right(self) -> Float[Tensor, " N"]:
        """1 where the reward of the chosen response is higher, 0.5 where both are equal."""
        return half_of_ties(self.chosen_reward, self.rejected_reward)

    @property
    def ranked(self) -> Float[Tensor, " N"] | None:
        """1 where a token of the chosen response is more probable on average (Chen et al. 2024, ranking accuracy)."""
        if self.chosen_log_prob is None or self.rejected_log_prob is None:
            return None
        return half_of_ties(self.chosen_log_prob, self.rejected_log_prob)

    def means(self) -> dict[str, float]:
        """The record of an evaluation; the loss comes first, by which weights are kept."""
        values = {
            "loss": self.loss, "accuracy": self.right, "ranking_accuracy": self.ranked,
            "margin": self.chosen_reward - self.rejected_reward, "chosen_reward": self.chosen_reward,
            "rejected_reward": self.rejected_reward, "chosen_log_prob": self.chosen_log_prob,
            "rejected_log_prob": self.rejected_log_prob,
        }  # fmt: skip
        return {name: value.mean().item() for name, value in values.items() if value is not None}

    def summary(self, before: "PreferenceScores") -> dict[str, Any]:
        """`means`, with the intervals of both accuracies and of their differences from `before`."""
        found: dict[str, Any] = self.means()
        for name, after, earlier in (
            ("accuracy", self.right, before.right), ("ranking_accuracy", self.ranked, before.ranked)
        ):  # fmt: skip
            if after is not None and earlier is not None:
                found[f"{name}_interval"] = share_interval(after.tolist())
                found[f"{name}_gain_interval"] = paired_share_interval(earlier.tolist(), after.tolist())
        return found


def half_of_ties(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """1 where `chosen` is greater, 0.5 where both are equal, else 0."""
    return (chosen > rejected).float() + 0.5 * (chosen == rejected).float()


def score_preferences(
    model: nn.Module,
    batches: Sequence[Batch],
    settings: PreferenceLoss,
    precision: str,
    opponents: Int[Tensor, "N 2"] | None = None,
) -> PreferenceScores:
    """The scores of `model`, in evaluation mode, on batches of PairBatches, or of LabelledBatches for the loss kto.

    Args:
        opponents: for kto: the rows of a desirable and an undesirable response that are compared; see `opponent_rows`.
    """
    device = next(model.parameters()).device
    rows: list[dict[str, Tensor]] = []
    with torch.no_grad(), autocast(device, precision):
        for batch in batches:
            prepared = estimate_kl(model, batch) if settings.name == "kto" else batch
            moved = {name: tensor.to(device) for name, tensor in prepared.items()}
            values = SCORES.get(settings.name, score_pairs)(model, moved, settings)
            rows.append({name: tensor.float().cpu() for name, tensor in values.items()})
            pop_aux_loss(model)
    values = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    if opponents is None:
        return PreferenceScores(**values)
    better, worse = opponents.T
    return PreferenceScores(
        values["loss"], values["reward"][better], values["reward"][worse], values["log_prob"][better],
        values["log_prob"][worse],
    )  # fmt: skip


MAX_OPPONENTS = 8
"""Undesirable responses that each desirable one is compared with, where no two answer one prompt."""


def opponent_rows(prompts: Sequence[str], desirable: Sequence[bool]) -> Int[Tensor, "N 2"]:
    """Rows of a desirable and an undesirable response to one prompt; of different prompts if no prompt has both."""
    good: dict[str, list[int]] = {}
    bad: dict[str, list[int]] = {}
    for row, (prompt, is_good) in enumerate(zip(prompts, desirable, strict=True)):
        (good if is_good else bad).setdefault(prompt, []).append(row)
    rows = [(better, worse) for prompt in good for better in good[prompt] for worse in bad.get(prompt, ())]
    if not rows:
        losers = [row for each in bad.values() for row in each]
        winners = [row for each in good.values() for row in each]
        rows = [
            (better, losers[(index + offset) % len(losers)])
            for index, better in enumerate(winners)
            for offset in range(min(MAX_OPPONENTS, len(losers)))
        ]
    return torch.tensor(rows, dtype=torch.long).view(-1, 2)
