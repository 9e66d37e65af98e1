"""Mixtral, Qwen3-MoE."""

from family_draws.draw import Draw, DrawnModel


def draw_mixtral(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 5))
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(),
            "model_type": "mixtral",
            "rope_theta": draw.choice((1e4, 1e6)),
            "sliding_window": draw.choice((None, 7)),
            "num_local_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


def draw_qwen3_moe(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 7))
    sizes = draw.sizes()
    dense = draw.randint(0, sizes["num_hidden_layers"] - 1)
    return DrawnModel(
        {
            **sizes, **draw.heads(),
            "model_type": "qwen3_moe",
            "head_dim": draw.choice((8, 18, 64)),
            "num_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "moe_intermediate_size": draw.choice((24, 29)),
            "norm_topk_prob": draw.chance(),
            "mlp_only_layers": list(range(dense)),
            "attention_bias": draw.chance(),
        }
    )  # fmt: skip


DRAWS = {"mixtral": draw_mixtral, "qwen3_moe": draw_qwen3_moe}
