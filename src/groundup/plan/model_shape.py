"""A width and a depth for a budget: one dial, the width; everything else follows.

Deeper is better than wider at equal cost until layers get too thin to fill the hardware; published models keep
width / depth near 32 at a few million parameters (TinyStories: 256 / 8), near 64 at 100 million (GPT-2: 768 / 12) and
near 128 from a billion up (Llama: 4096 / 32). The line 16 + width / 16, capped at 128, goes through all three.
"""

from collections.abc import Iterator
from typing import Any

from groundup.plan.parameter_count import count_parameters, training_flops_per_token
from groundup.recipe import ModelConfig, build_model_config

MIN_WIDTH, MAX_WIDTH = 64, 16_384


def config_for_width(width: int, vocab_size: int, fixed: dict[str, Any]) -> ModelConfig:
    """The model of a given width; knobs in `fixed` stay as the recipe has them."""
    aspect = min(16 + width / 16, 128)
    num_heads, head_dim = fixed.get("num_heads"), fixed.get("head_dim")
    head_dim = head_dim or (width // num_heads if num_heads else _head_dim(width))
    num_heads = num_heads or max(1, width // head_dim)
    derived = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_layers": max(2, round(width / aspect)),
        "num_heads": num_heads,
        "head_dim": head_dim,
        # From 4096 up the key/value cache rules generation: groups of queries share keys (Ainslie et al. 2023).
        "num_kv_heads": 8 if width >= 4096 and num_heads % 8 == 0 else num_heads,
        "tie_embeddings": width < 2048,  # below, the embedding is too large a share to hold it twice
    }
    return build_model_config(derived | fixed)


def _head_dim(width: int) -> int:
    """128 from 2048 up, as Llama has it; below, the largest of 64 and 32 that divides the width."""
    return 128 if width >= 2048 else 64 if width % 64 == 0 and width >= 256 else 32


def largest_model_within(
    compute: float,
    tokens_per_parameter: float,
    vocab_size: int,
    fixed: dict[str, Any],
    tokens: int | None = None,
) -> ModelConfig:
    """The widest shape whose training, with its share of tokens, costs at most `compute` operations.

    With `tokens` given, that many are trained on, whatever the size. The smallest shape is returned where even that
    costs more.
    """
    best = None
    for config in candidate_configs(vocab_size, fixed):
        trained_on = tokens or tokens_per_parameter * count_parameters(config).active
        cost = trained_on * training_flops_per_token(config, config.context_length)
        if best is not None and cost > compute:
            break
        best = config
    assert best is not None
    return best


def candidate_configs(vocab_size: int, fixed: dict[str, Any]) -> Iterator[ModelConfig]:
    """Every width worth planning, smallest first; only the one that `fixed` names, where it does."""
    if width := fixed.get("hidden_size"):
        yield config_for_width(width, vocab_size, fixed)
        return
    width = MIN_WIDTH
    while width <= MAX_WIDTH:
        yield config_for_width(width, vocab_size, fixed)
        width += 32 if width < 512 else 64 if width < 1024 else 128 if width < 4096 else 256
