"""Model shape for a time budget: one parameter, the width, from which the rest is derived.

width / depth = 16 + width / 16, at most 128. Published models lie on that line: 32 at a few million parameters
(TinyStories: 256 / 8), 64 at 100 million (GPT-2: 768 / 12), 128 from a billion up (Llama: 4096 / 32).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.parameter_count import count_parameters
from groundup.recipe import ModelConfig, build_model_config

MIN_WIDTH, MAX_WIDTH = 64, 16_384
MIN_TOKENS_PER_PARAMETER = 0.4
"""Where the text is the limit, larger models learn more from it, down to about this ratio: measured on 154 kB and 466 kB,
models down to 0.13 are at most 0.8% better, with two to four times as many weights (lab book)."""


def config_for_width(width: int, vocab_size: int, fixed: dict[str, Any]) -> ModelConfig:
    """The model of a given width; knobs in `fixed` override what is derived."""
    aspect = min(16 + width / 16, 128)
    num_heads, head_dim = fixed.get("num_heads"), fixed.get("head_dim")
    if num_heads is None:
        head_dim = head_dim or _head_dim(width)
        num_heads = max(1, width // head_dim)
    derived = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_layers": max(2, round(width / aspect)),
        "num_heads": num_heads,
        "head_dim": head_dim,
        # From 4096 up the key/value cache limits generation: grouped-query attention (Ainslie et al. 2023).
        "num_kv_heads": 8 if width >= 4096 and num_heads % 8 == 0 else num_heads,
        "tie_embeddings": width < 2048,  # below, the embedding is a large part of the model
    }
    return build_model_config(derived | fixed)


def _head_dim(width: int) -> int:
    """128 from width 2048 up, as in Llama; below, 64 or 32."""
    return 128 if width >= 2048 else 64 if width % 64 == 0 and width >= 256 else 32


def largest_model_within(
    seconds: float, training_seconds: Callable[[ModelConfig, float], float], tokens_per_parameter: float,
    vocab_size: int, fixed: dict[str, Any], tokens: int | None = None, max_tokens: int | None = None,
) -> ModelConfig:  # fmt: skip
    """The widest model whose training takes at most `seconds`, or the smallest one.

    It is trained on `tokens`, or on `tokens_per_parameter` for each of its parameters. With `max_tokens`, no more
    than three quarters of them are required, and MIN_TOKENS_PER_PARAMETER. `training_seconds(config, tokens)` is the time.
    """
    best = None
    for config in candidate_configs(vocab_size, fixed):
        parameters = count_parameters(config).active
        training_tokens = tokens or min(tokens_per_parameter * parameters, 0.75 * (max_tokens or math.inf))
        too_large = max_tokens is not None and max_tokens < MIN_TOKENS_PER_PARAMETER * parameters
        if best is not None and (too_large or training_seconds(config, training_tokens) > seconds):
            break
        best = config
    if best is None:
        raise UserError(
            f"model.num_heads = {fixed['num_heads']}: divides no width from {MIN_WIDTH} to {MAX_WIDTH}",
            hint="set model.hidden_size or model.head_dim",
        )
    return best


def candidate_configs(vocab_size: int, fixed: dict[str, Any]) -> Iterator[ModelConfig]:
    """Models in order of width; only one if `fixed` has the width."""
    if width := fixed.get("hidden_size"):
        yield config_for_width(width, vocab_size, fixed)
        return
    width = MIN_WIDTH
    num_heads = fixed.get("num_heads") if "head_dim" not in fixed else None
    while width <= MAX_WIDTH:
        if num_heads is None or width % (2 * num_heads) == 0:  # RoPE needs an even head_dim
            yield config_for_width(width, vocab_size, fixed)
        width += 32 if width < 512 else 64 if width < 1024 else 128 if width < 4096 else 256
