"""Qwen3-Next and Qwen3.5: linear attention and gated attention."""

from family_draws.draw import Draw, DrawnModel


def draw_qwen3_next(draw: Draw) -> DrawnModel:
    return DrawnModel({**_linear(draw), **_experts(draw), "model_type": "qwen3_next", "norm_topk_prob": draw.chance(),
                       "mlp_only_layers": draw.sample(range(4), draw.randint(0, 2))})  # fmt: skip


def draw_qwen3_5(draw: Draw) -> DrawnModel:
    return DrawnModel({**_linear(draw), "model_type": "qwen3_5_text"})


def draw_qwen3_5_moe(draw: Draw) -> DrawnModel:
    return DrawnModel({**_linear(draw), **_experts(draw), "model_type": "qwen3_5_moe_text"})


def _experts(draw: Draw) -> dict:
    experts, size = draw.choice((3, 7)), draw.choice((24, 29))
    return {
        "num_experts": experts,
        "num_experts_per_tok": draw.randint(1, experts),
        "moe_intermediate_size": size,
        "shared_expert_intermediate_size": draw.choice((1, 3)) * size,
    }


def _linear(draw: Draw) -> dict:
    layers, key_heads = draw.randint(1, 4), draw.choice((1, 2, 3))
    types = [draw.choice(("linear_attention", "full_attention")) for _ in range(layers)]
    types[draw.randrange(layers)] = "full_attention"  # transformers keeps no cache without
    return {
        **draw.sizes(), **draw.heads(),
        "num_hidden_layers": layers,
        "head_dim": draw.choice((8, 24, 64)),
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": key_heads * draw.choice((1, 2)),
        "linear_key_head_dim": draw.choice((12, 64)),
        "linear_value_head_dim": draw.choice((10, 32)),
        "linear_conv_kernel_dim": draw.choice((2, 4)),
        "rope_parameters": {
            "rope_type": "default", "rope_theta": draw.choice((1e4, 1e7)), "partial_rotary_factor": draw.choice((0.25, 0.5, 1.0)),
        },
        "attention_bias": draw.chance(),
        "tie_word_embeddings": draw.chance(),
        **({"layer_types": types} if layers < 4 or draw.chance(0.7) else {}),
    }  # fmt: skip


DRAWS = {"qwen3_next": draw_qwen3_next, "qwen3_5_text": draw_qwen3_5, "qwen3_5_moe_text": draw_qwen3_5_moe}
