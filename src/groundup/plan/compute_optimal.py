"""How many parameters, how many tokens, which batch and which learning rate a budget of arithmetic asks for.

C is the training compute in floating point operations, N the parameters, D the tokens.
"""

import math


def compute_optimal_size(compute: float, tokens_per_parameter: float = 20.0) -> tuple[float, float]:
    """Parameters N and tokens D that spend `compute` with D = tokens_per_parameter * N, from C = 6 N D.

    20 tokens a parameter is what Hoffmann et al. 2022 (Training Compute-Optimal Large Language Models, table 3 and
    section 3) found to spend compute best; more tokens give a smaller model that costs less to use.
    """
    parameters = math.sqrt(compute / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


def optimal_learning_rate(compute: float) -> float:
    """Peak learning rate of AdamW: 0.3118 C^-0.1250 (DeepSeek LLM 2024, section 3.1, equation 1)."""
    return 0.3118 * compute**-0.1250


def optimal_batch_tokens(compute: float) -> float:
    """Tokens in a batch: 0.2920 C^0.3271 (DeepSeek LLM 2024, section 3.1, equation 1)."""
    return 0.2920 * compute**0.3271
