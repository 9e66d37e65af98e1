"""Knobs of preference tuning that follow from the loss, the size of the model and the data."""

import math
from typing import Any

from groundup.plan.defaults.finetune_defaults import (
    FULL_FACTOR,
    LARGE,
    LORA_RANK,
    MIN_LARGEST_BATCH,
    SMALL,
    STEPS_PER_PASS,
)

LORA_LEARNING_RATE = (2e-4, 1e-5)
"""LARGE: 20 times the 5e-7 of all weights of Zephyr (Tunstall et al. 2023). SMALL: so that SmolLM2-135M gets
5e-5; at 3e-4 it forgets to write (book/preferences.md)."""
REWARD_LEARNING_RATE = (2e-3, 1e-4)
"""Of adapters under a new reward head."""
EPOCHS = (3.0, 1.0)
BATCH_TOKENS = (2_048, 32_768)
"""Tokens of both responses of a pair, at most."""

MAX_SAMPLED_ANSWERS, MAX_SAMPLED_TOKENS = 16, 128
"""Held-out prompts that are answered before and after, and tokens of an answer at most."""

MAX_EVALS = 10
"""Evaluations during the training, fewer if they would cost more than a sixth of it."""

DEFAULT_BETA = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0, "reward": 1.0}
"""As in the experiments of the papers; `reward` has none."""


def preference_defaults(loss: str, method: str, parameters: int, tokens: float) -> dict[str, Any]:
    """beta, lora_rank, epochs, batch_tokens, learning_rate and optimizer of [preference].

    Args:
        tokens: of all responses, with their prompts, in one pass.

    >>> defaults = preference_defaults("dpo", "lora", 135_000_000, 400_000)
    >>> defaults["beta"], defaults["epochs"], defaults["batch_tokens"]
    (0.1, 2.0, 8192)
    """
    position = math.log(min(max(parameters, SMALL), LARGE) / SMALL) / math.log(LARGE / SMALL)

    def between(ends: tuple[float, float]) -> float:
        return ends[0] * (ends[1] / ends[0]) ** position

    learning_rate = between(REWARD_LEARNING_RATE if loss == "reward" else LORA_LEARNING_RATE)
    largest_batch = max(MIN_LARGEST_BATCH, 2 ** round(math.log2(between(BATCH_TOKENS))))
    return {
        "beta": DEFAULT_BETA[loss],
        "lora_rank": 2 ** round(math.log2(between(LORA_RANK))),
        "epochs": float(round(between(EPOCHS))),
        "batch_tokens": min(largest_batch, max(1, math.ceil(tokens / STEPS_PER_PASS))),
        "learning_rate": float(f"{(1.0 if method == 'lora' else FULL_FACTOR) * learning_rate:.2g}"),
        "optimizer": "adamw",
    }


def number_of_evals(trained: float, held_out: int) -> int:
    """Evaluations on `held_out` preferences during the training on `trained`: those that are read half as often, at most.

    >>> number_of_evals(1_000, 50), number_of_evals(250, 60)
    (10, 2)
    """
    return max(1, min(MAX_EVALS, int(trained / (2 * max(1, held_out)))))
