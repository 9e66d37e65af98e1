"""Loss to expect of a plan of any size, in bits per byte of English text: for comparing plans, and with a wide interval.

From 40 million parameters and 500 million tokens up, the published laws of loss_law.py, which were fitted there. Below, a law
of the same form with equal exponents, fitted to measured trainings: the ladder of the quickstart (lab book, 0.4 to 5.9 million
parameters, 0.1 to 1.5 million tokens) and GPT-2 of 124 million parameters after 10 billion tokens (recipes/gpt2-124m.toml),
within 2% of each; how the loss divides over size and data, the 20 tokens per parameter of Chinchilla say.
"""

import math

from groundup.plan.scaling.loss_law import LossLaw, effective_tokens, predict_published_loss

UNIT = "bits per byte"
SMALL_LAW = LossLaw("trainings of 0.4 to 124 million parameters (lab book)", 0.531, 9.40, 0.186, 16.41, 0.186, UNIT)
SMALL_LAW_MARGIN = 0.2
"""Texts and optimizers differ: the quickstart's own settings reach 18% less than its ladder's first ones."""
MIN_PUBLISHED_PARAMETERS, MIN_PUBLISHED_TOKENS = 40e6, 500e6
"""The smallest trainings to which the published laws were fitted have 44 million parameters."""
WEB_BYTES_PER_TOKEN = 4.5
"""English web text in tokens of a vocabulary of 32,000 to 50,000."""


def is_published_range(parameters: float, tokens: float) -> bool:
    """Whether the published laws cover a training of this size."""
    return parameters >= MIN_PUBLISHED_PARAMETERS and tokens >= MIN_PUBLISHED_TOKENS


def expected_loss(parameters: float, tokens: float, unique_tokens: float | None = None) -> dict[str, float]:
    """Loss in bits per byte: "loss", "low" and "high". `unique_tokens`: those of the text, if it is read more than once.

    >>> {name: round(value, 1) for name, value in expected_loss(7e9, 140e9).items()}
    {'loss': 0.7, 'low': 0.6, 'high': 0.8}
    >>> round(expected_loss(5.9e6, 1.5e6)["loss"], 1)
    2.2
    """
    if is_published_range(parameters, tokens):
        nats = predict_published_loss(parameters, tokens, unique_tokens)
        return {name: value / math.log(2) / WEB_BYTES_PER_TOKEN for name, value in nats.items()}
    effective = tokens if unique_tokens is None else effective_tokens(tokens, unique_tokens)
    loss = SMALL_LAW.loss(parameters, effective)
    return {"loss": loss, "low": loss * (1 - SMALL_LAW_MARGIN), "high": loss * (1 + SMALL_LAW_MARGIN)}
