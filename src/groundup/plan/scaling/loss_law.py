"""Loss as a function of parameters and tokens, L(N, D) = E + A N^-a + B D^-b: published fits, and what follows from them.

Published constants are in nats per token of their own text and tokenizer, web text with about 32,000 entries: use them to
compare plans, and the ladder of a recipe (`groundup ladder`) for the loss on its text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groundup.plan.scaling.scaling_law import ScalingLaw

NATS = "nats per token"


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = irreducible + size_scale N^-size_exponent + data_scale D^-data_exponent, in `unit`."""

    name: str
    irreducible: float
    size_scale: float
    size_exponent: float
    data_scale: float
    data_exponent: float
    unit: str = NATS

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss of a model with `parameters`, trained on `tokens` that it reads once."""
        size = self.size_scale * parameters**-self.size_exponent
        return self.irreducible + size + self.data_scale * tokens**-self.data_exponent

    def optimum(self, compute: float) -> tuple[float, float]:
        """N and D with the lowest loss for C = 6 N D, in closed form (Hoffmann et al. 2022, equation 4)."""
        a, b = self.size_exponent, self.data_exponent
        balance = (a * self.size_scale / (b * self.data_scale)) ** (1 / (a + b))
        parameters = balance * (compute / 6) ** (b / (a + b))
        return parameters, compute / (6 * parameters)

    def tokens_for_loss(self, parameters: float, loss: float) -> float:
        """Tokens with which a model of `parameters` reaches `loss`; infinite where it never does."""
        left = loss - self.irreducible - self.size_scale * parameters**-self.size_exponent
        return math.inf if left <= 0 else (self.data_scale / left) ** (1 / self.data_exponent)


CHINCHILLA = LossLaw("Hoffmann et al. 2022, equation 10", 1.69, 406.4, 0.34, 410.7, 0.28)
REPLICATION = LossLaw("Besiroglu et al. 2024, A replication attempt", 1.8172, 482.01, 0.3478, 2085.43, 0.3658)
DATA_CONSTRAINED = LossLaw("Muennighoff et al. 2023, appendix A", 1.87, 521.0, 0.353, 1488.0, 0.353)
PUBLISHED_LAWS = (REPLICATION, CHINCHILLA, DATA_CONSTRAINED)

REPEATED_DATA_DECAY = 15.39
"""R_D*: repetitions after which 63% of what repeating can give is taken (Muennighoff et al. 2023, section 5)."""

INTERVAL_MARGIN = 0.08
"""Relative margin beyond the range of the published laws: texts differ. Chosen by hand, so that the two published losses of
benchmarks/published_runs.toml lie within; both are near its upper end. Not a level of confidence."""


def effective_tokens(total: float, unique: float) -> float:
    """Tokens read once that are worth `total` tokens of which `unique` differ (Muennighoff et al. 2023, equation 5).

    >>> round(effective_tokens(4e9, 1e9) / 1e9, 2), round(effective_tokens(100e9, 1e9) / 1e9, 1)
    (3.73, 16.4)
    """
    if total <= unique:
        return total
    repetitions = total / unique - 1
    return unique * (1 + REPEATED_DATA_DECAY * (1 - math.exp(-repetitions / REPEATED_DATA_DECAY)))


def predict_published_loss(
    parameters: float, tokens: float, unique_tokens: float | None = None, laws: Sequence[LossLaw] = PUBLISHED_LAWS
) -> dict[str, float]:
    """Loss by the first law, and an interval: the range of all of them, and INTERVAL_MARGIN beyond it."""
    if unique_tokens is not None:
        tokens = effective_tokens(tokens, unique_tokens)
    losses = [law.loss(parameters, tokens) for law in laws]
    margin = INTERVAL_MARGIN if len(laws) > 1 else 0.0
    return {"loss": losses[0], "low": min(losses) * (1 - margin), "high": max(losses) * (1 + margin)}


def overtrained_size(compute: float, inference_tokens: float, law: LossLaw = REPLICATION) -> tuple[float, float]:
    """N and D of the model as good as the optimum of `compute`, for which training and inference cost least together.

    Minimizes 6 N D + 2 N `inference_tokens` at the loss of the optimum (Sardana et al. 2023, Beyond Chinchilla-Optimal,
    equation 2): a smaller model that reads more.

    >>> size, tokens = overtrained_size(6e22, 2e12)
    >>> optimal, _ = REPLICATION.optimum(6e22)
    >>> 0.5 < size / optimal < 0.9 and tokens > 6e22 / 6 / optimal
    True
    """
    optimal, tokens = law.optimum(compute)
    goal = law.loss(optimal, tokens)

    def cost(size: float) -> float:
        return size * (6 * law.tokens_for_loss(size, goal) + 2 * inference_tokens)

    size = minimize_unimodal(cost, optimal / 20, optimal * 1.5)
    return size, law.tokens_for_loss(size, goal)


def minimize_unimodal(function: Callable[[float], float], low: float, high: float) -> float:
    """Argument between `low` and `high`, on a scale of ratios, at which a function with one minimum has it: golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(low), math.log(high)
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(math.exp(left)) < function(math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def loss_law_of_ladder(ladder: ScalingLaw, tokens_per_parameter: float, optimal_ratio: float = 20.0) -> LossLaw:
    """The law of a user's own ladder, E + S (N / unit)^-a at one ratio of tokens to parameters, split over N and D.

    With equal exponents, A N^-a = B D^-a at the optimum, so that B = A `optimal_ratio`^a: the ladder gives level, scale and
    exponent, and the 20 tokens per parameter of Chinchilla the split.
    """
    medians = ladder.medians()
    exponent = medians["exponents"]
    scale = medians["scales"] * medians["unit"] ** exponent
    size_scale = scale / (1 + (optimal_ratio / tokens_per_parameter) ** exponent)
    data_scale = size_scale * optimal_ratio**exponent
    name, floor = "ladder of this recipe", medians["floors"]
    return LossLaw(name, floor, size_scale, exponent, data_scale, exponent, "bits per byte")
