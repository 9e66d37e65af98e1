"""Youtu-LLM, and the settings of latent attention that it shares with DeepSeek."""

from typing import Any

from family_draws.draw import Draw, DrawnModel

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
SCALINGS = (
    None,
    YARN,
    {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 16.0, "beta_slow": 2.0},
    {**YARN, "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.5},
    {**YARN, "mscale_all_dim": 0.8},
)


def latent_attention(draw: Draw) -> dict[str, Any]:
    """Sizes, heads and rotation; values may be wider or narrower than keys."""
    heads = draw.choice((1, 3, 5))
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_size": draw.choice((24, 42, 90)),
        "q_lora_rank": draw.choice((None, 10, 33)),
        "kv_lora_rank": draw.choice((9, 24)),
        "qk_nope_head_dim": draw.choice((5, 16, 64)),
        "qk_rope_head_dim": draw.choice((4, 10, 64)),
        "v_head_dim": draw.choice((7, 16, 64)),
        "rope_theta": draw.choice((1e4, 5e4)),
        "rope_scaling": draw.choice(SCALINGS),
        "attention_bias": draw.chance(0.3),
        "rms_norm_eps": draw.choice((1e-6, 1e-4)),
        "tie_word_embeddings": draw.chance(),
    }


def draw_youtu(draw: Draw) -> DrawnModel:
    return DrawnModel({**draw.sizes(), **latent_attention(draw), "model_type": "youtu"})


DRAWS = {"youtu": draw_youtu}
