"""Compute-optimal model size, tokens, batch size and learning rate.

C: training compute in floating point operations, N: parameters, D: tokens.
"""

import math


def compute_optimal_size(compute: float, tokens_per_parameter: float = 20.0) -> tuple[float, float]:
    """N and D for C = 6 N D and D = tokens_per_parameter * N.

    20 tokens per parameter is compute-optimal (Hoffmann et al. 2022, Training Compute-Optimal Large Language Models,
    table 3 and section 3); more give a smaller model with cheaper inference.
    """
    parameters = math.sqrt(compute / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


def optimal_learning_rate(compute: float) -> float:
    """Peak learning rate of AdamW: 0.3118 C^-0.1250 (DeepSeek LLM 2024, section 3.1, equation 1)."""
    return 0.3118 * compute**-0.1250


def optimal_batch_tokens(compute: float) -> float:
    """Tokens per batch: 0.2920 C^0.3271 (DeepSeek LLM 2024, section 3.1, equation 1)."""
    return 0.2920 * compute**0.3271
