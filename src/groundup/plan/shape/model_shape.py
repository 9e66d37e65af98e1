"""Model shape for a budget or a number of parameters: one parameter, the width, from which the rest is derived.

width / depth = 16 + width / 16, at most 128. Published models lie on that line: 32 at a few million parameters
(TinyStories: 256 / 8), 64 at 100 million (GPT-2: 768 / 12), 128 from a billion up (Llama: 4096 / 32). Sizes are those that
hardware multiplies fast: widths are multiples of 32 to 1,024, feed-forwards of 64 or 256, heads even from 2048 and multiples
of eight from 4096 up, where as many key/value heads divide by eight devices. In order of width, depth and parameters rise too.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import ModelConfig, build_model_config
from groundup.recipe.model_config import GATED_ACTIVATIONS

MIN_WIDTH, MAX_WIDTH = 64, 16_384
MIN_TOKENS_PER_PARAMETER = 0.4
"""Where the text is the limit, larger models learn more from it, down to about this ratio: measured on 154 kB and 466 kB,
models down to 0.13 are at most 0.8% better, with two to four times as many weights (lab book)."""


def config_for_width(width: int, vocab_size: int, fixed: dict[str, Any]) -> ModelConfig:
    """The model of a given width; knobs in `fixed` override what is derived."""
    num_heads, head_dim = fixed.get("num_heads"), fixed.get("head_dim")
    if num_heads is None:
        head_dim = head_dim or _head_dim(width)
        num_heads = max(1, width // head_dim)
    # From 4096 up the key/value cache limits generation: grouped-query attention (Ainslie et al. 2023). Its weights go to a
    # wider feed-forward, 3.5 times the width, as in Llama 3.
    is_grouped = width >= 4096 and num_heads % 8 == 0 and "num_kv_heads" not in fixed
    derived = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_layers": depth_for_width(width),
        "num_heads": num_heads,
        "head_dim": head_dim,
        "num_kv_heads": 8 if is_grouped else num_heads,
        "tie_embeddings": width < 2048,  # below, the embedding is a large part of the model
    }
    if width >= 1024 and fixed.get("feed_forward", "swiglu") in GATED_ACTIVATIONS:
        ratio = 3.5 if is_grouped else 8 / 3
        derived["intermediate_size"] = math.ceil(ratio * width / 256) * 256
    return build_model_config(derived | fixed)


def depth_for_width(width: int) -> int:
    """Blocks of a model of this width."""
    return max(2, round(width / min(16 + width / 16, 128)))


def _head_dim(width: int) -> int:
    """128 from width 2048 up, as in Llama; below, 64 or 32."""
    return 128 if width >= 2048 else 64 if width % 64 == 0 and width >= 256 else 32


def largest_model_within(
    seconds: float, training_seconds: Callable[[ModelConfig, float], float], tokens_per_parameter: float,
    vocab_size: int, fixed: dict[str, Any], tokens: int | None = None, max_tokens: int | None = None,
) -> ModelConfig:  # fmt: skip
    """The largest model whose training takes at most `seconds`, or the smallest one.

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
    return _require(best, fixed)


def shape_for_parameters(parameters: float, vocab_size: int, fixed: dict[str, Any]) -> ModelConfig:
    """The model whose parameters, those of one token, are nearest to `parameters`.

    >>> config = shape_for_parameters(7e9, 32_000, {})
    >>> config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads, config.intermediate_size
    (4096, 32, 32, 8, 14336)
    """
    best, distance = None, math.inf
    for config in candidate_configs(vocab_size, fixed):
        difference = math.log(count_parameters(config).active / parameters)
        if abs(difference) < distance:
            best, distance = config, abs(difference)
        if difference > distance:
            break
    return _require(best, fixed)


EXPERT_GRANULARITY, EXPERTS_PER_TOKEN, EXPERT_MULTIPLE = 4, 4, 8
"""Experts are a quarter of the dense feed-forward and four work for a token, so that as many weights are active (DeepSeekMoE,
Dai et al. 2024, section 3.1); their number is a multiple of eight, which divides by the devices of a machine."""


def mixture_for_parameters(active: float, total: float, vocab_size: int, fixed: dict[str, Any]) -> ModelConfig:
    """A mixture of experts with about `active` parameters for a token and `total` in all.

    >>> config = mixture_for_parameters(3e9, 30e9, 32_000, {})
    >>> assert config.moe is not None
    >>> round(count_parameters(config).active / 1e9, 1), round(count_parameters(config).total / 1e9)
    (2.9, 30)
    """
    dense = shape_for_parameters(active, vocab_size, fixed)
    expert = max(64, dense.intermediate_size // EXPERT_GRANULARITY // 64 * 64)
    weights = dense.num_layers * (3 if dense.gated else 2) * dense.hidden_size * expert
    number = EXPERTS_PER_TOKEN + max(0.0, total - active) / weights
    count = max(1, round(number / EXPERT_MULTIPLE)) * EXPERT_MULTIPLE
    moe = {"num_experts": count, "experts_per_token": EXPERTS_PER_TOKEN, "intermediate_size": expert}
    return build_model_config(dense.model_dump(exclude_none=True) | {"moe": moe})


def candidate_configs(vocab_size: int, fixed: dict[str, Any]) -> Iterator[ModelConfig]:
    """Models in order of width, depth and parameters; only one if `fixed` has the width.

    From 4096 up widths are far apart: between two of them, depth rises.
    """
    if width := fixed.get("hidden_size"):
        yield config_for_width(width, vocab_size, fixed)
        return
    num_heads = fixed.get("num_heads") if "head_dim" not in fixed else None
    widths = [w for w in _widths() if num_heads is None or w % (2 * num_heads) == 0]  # RoPE needs an even head_dim
    most = 0
    for width, wider in itertools.pairwise([*widths, MAX_WIDTH]):
        depth, next_depth = depth_for_width(width), depth_for_width(wider)
        depths = range(depth, max(depth + 1, next_depth), 2) if width >= 4096 and "num_layers" not in fixed else [depth]
        for layers in depths:
            config = config_for_width(width, vocab_size, {"num_layers": layers} | fixed)
            if (parameters := count_parameters(config).active) > most:
                most = parameters
                yield config


def _widths() -> Iterator[int]:
    width = MIN_WIDTH
    while width <= MAX_WIDTH:
        yield width
        width += 32 if width < 512 else 64 if width < 1024 else 128 if width < 2048 else 256 if width < 4096 else 1024


def _require(config: ModelConfig | None, fixed: dict[str, Any]) -> ModelConfig:
    if config is None:
        raise UserError(
            f"model.num_heads = {fixed['num_heads']}: divides no width from {MIN_WIDTH} to {MAX_WIDTH}",
            hint="set model.hidden_size or model.head_dim",
        )
    return config
