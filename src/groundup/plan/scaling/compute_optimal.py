"""Compute-optimal model size, tokens, batch size, learning rate, vocabulary and experts: published rules as functions.

C: training compute in floating point operations, N: parameters, D: tokens. Chinchilla: Hoffmann et al. 2022, Training
Compute-Optimal Large Language Models.
"""

import math


def compute_optimal_size(compute: float, tokens_per_parameter: float = 20.0) -> tuple[float, float]:
    """N and D for C = 6 N D and D = tokens_per_parameter * N.

    20 tokens per parameter is compute-optimal (Chinchilla, table 3 and section 3; Besiroglu et al. 2024 find the same with
    the corrected third fit); more give a smaller model with cheaper inference.
    """
    parameters = math.sqrt(compute / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


def chinchilla_training_curves(compute: float) -> tuple[float, float]:
    """N and D by the first fit of Chinchilla, the minima over training curves: N grows as C^0.50 (tables 2 and A3).

    >>> [f"{value:.3g}" for value in chinchilla_training_curves(1.23e22)]
    ['1e+10', '2.05e+11']
    """
    return _power_law(compute, 1.23e22, 0.50)


def chinchilla_isoflop_profiles(compute: float) -> tuple[float, float]:
    """N and D by the second fit of Chinchilla, the minima of curves of equal compute: N grows as C^0.49 (tables 2 and A3)."""
    return _power_law(compute, 1.32e22, 0.49)


def chinchilla_parametric_loss(compute: float) -> tuple[float, float]:
    """N and D by the third fit of Chinchilla as published, a formula of the loss: N grows as C^0.46 (tables 2 and A3).

    Its constants were rounded and badly fitted (Besiroglu et al. 2024): `loss_law.REPLICATION` is the correction.
    """
    return _power_law(compute, 2.46e22, 0.46)


def _power_law(compute: float, compute_of_10b: float, exponent: float) -> tuple[float, float]:
    """N = 10 billion at `compute_of_10b`, and D = C / 6 N."""
    parameters = 10e9 * (compute / compute_of_10b) ** exponent
    return parameters, compute / (6 * parameters)


def optimal_learning_rate(compute: float) -> float:
    """Peak learning rate of AdamW: 0.3118 C^-0.1250 (DeepSeek LLM 2024, section 3.1, equation 1)."""
    return 0.3118 * compute**-0.1250


def optimal_batch_tokens(compute: float) -> float:
    """Tokens per batch: 0.2920 C^0.3271 (DeepSeek LLM 2024, section 3.1, equation 1)."""
    return 0.2920 * compute**0.3271


def step_law_learning_rate(parameters: float, tokens: float) -> float:
    """Peak learning rate: 1.79 N^-0.713 D^0.307, N without embeddings (Li et al. 2025, Predictable Scale: Part I)."""
    return 1.79 * parameters**-0.713 * tokens**0.307


def step_law_batch_tokens(tokens: float) -> float:
    """Tokens per batch: 0.58 D^0.571 (Li et al. 2025, Predictable Scale: Part I)."""
    return 0.58 * tokens**0.571


def critical_batch_tokens(loss: float) -> float:
    """Tokens per batch beyond which larger batches save few steps: 2e8 L^(-1 / 0.21) (Kaplan et al. 2020, section 5.1).

    >>> f"{critical_batch_tokens(3.0):.0f}"
    '1069114'
    """
    return 2e8 * loss ** (-1 / 0.21)


def optimal_vocabulary(parameters: float, hidden_size: int) -> float:
    """Entries of the vocabulary for N parameters outside of it (Tao et al. 2024, Scaling Laws with Vocabulary, section 4.1).

    From equal compute: N = 0.08 C^0.50, and the vocabulary has 0.20 C^0.42 parameters, so that it grows as N^0.84.

    >>> round(optimal_vocabulary(3e9, 3200), -3)
    48000.0
    """
    compute = (parameters / 0.08) ** 2
    return 0.20 * compute**0.42 / hidden_size


EXPERTS_SIZE, EXPERTS_COUNT, EXPERTS_JOINT = -0.082, -0.108, 0.009
EXPERTS_START, EXPERTS_MAX = 1.847, 314.478
"""a, b and c of log L = a log N + b log E + c log N log E + d, and the bounds of E (Clark et al. 2022, Unified Scaling Laws
for Routed Language Models, table 3, S-BASE)."""


def effective_parameters(active_parameters: float, num_experts: int) -> float:
    """N of the dense model that reaches the loss of a mixture of experts with as many active parameters (Clark et al. 2022).

    One expert of each layer works for a token; more active and smaller experts gain more. Above 300 experts, and for more
    than 900 billion active parameters, experts add nothing.

    >>> round(effective_parameters(1e9, 1) / 1e9, 2), round(effective_parameters(1e9, 64) / 1e9, 1)
    (1.0, 3.1)
    """
    saturated = 1 / (num_experts - 1 + 1 / (1 / EXPERTS_START - 1 / EXPERTS_MAX)) + 1 / EXPERTS_MAX
    experts, dense = -math.log10(saturated), math.log10(EXPERTS_START)
    size = math.log10(active_parameters)
    gain = (EXPERTS_SIZE + EXPERTS_JOINT * experts) * size + EXPERTS_COUNT * (experts - dense)
    return max(active_parameters, 10 ** (gain / (EXPERTS_SIZE + EXPERTS_JOINT * dense)))
