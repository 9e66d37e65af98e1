"""dots.llm1, GLM-4.5, Solar Open, MiniMax-M2; Llama 4's text."""

from family_draws.draw import Draw, DrawnModel


def sigmoid_experts(draw: Draw) -> dict:
    groups, size = draw.choice(((1, 5), (1, 2), (2, 3), (3, 2), (4, 4)))
    used = draw.randint(1, groups)
    return {
        **draw.sizes(),
        "n_routed_experts": groups * size,
        "num_experts_per_tok": draw.randint(1, used * size),
        "moe_intermediate_size": draw.choice((24, 29)),
        "n_shared_experts": draw.choice((1, 2)),
        "first_k_dense_replace": draw.choice((0, 1, 3)),
        "norm_topk_prob": draw.chance(0.7),
        "routed_scaling_factor": draw.choice((1.0, 2.5)),
        "n_group": groups,
        "topk_group": used,
        "attention_bias": draw.chance(),
        "tie_word_embeddings": draw.chance(0.2),
    }


def draw_dots1(draw: Draw) -> DrawnModel:
    window = {"sliding_window": draw.choice((None, 7)), "max_window_layers": draw.choice((0, 1, 62))}
    return DrawnModel({**sigmoid_experts(draw), **draw.heads(), **draw.rope(), **window, "model_type": "dots1"})


def draw_glm4_moe(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **sigmoid_experts(draw), **draw.heads(), **draw.rope(),
            "model_type": "glm4_moe",
            "head_dim": draw.choice((16, 24, 64)),
            "use_qk_norm": draw.chance(),
            "partial_rotary_factor": draw.choice((0.25, 0.5, 1.0)),
        }
    )  # fmt: skip


def draw_minimax_m2(draw: Draw) -> DrawnModel:
    experts, head_dim = draw.choice((3, 7)), draw.choice((16, 24, 64))
    rotated = draw.choice(({}, {"rotary_dim": head_dim // 2}, {"partial_rotary_factor": 0.5}))
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(), **rotated,
            "model_type": "minimax_m2",
            "head_dim": head_dim,
            "num_local_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "tie_word_embeddings": draw.chance(0.2),
        }
    )  # fmt: skip


def draw_llama4(draw: Draw) -> DrawnModel:
    experts, layers = draw.choice((3, 7)), draw.randint(1, 5)
    sparse = draw.choice(({"interleave_moe_layer_step": draw.choice((1, 2))}, {"moe_layers": [0, 3]}))
    rotated = draw.choice(({}, {"no_rope_layer_interval": 2}, {"no_rope_layers": [1, 0, 0, 1, 1][:layers]}))
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(), **sparse, **rotated,
            "model_type": "llama4_text",
            "num_hidden_layers": layers,
            "head_dim": draw.choice((8, 24, 64)),
            "intermediate_size": draw.choice((24, 29)),
            "intermediate_size_mlp": draw.choice((40, 51)),
            "num_local_experts": experts,
            "num_experts_per_tok": draw.choice((1, 1, 2)),
            "use_qk_norm": draw.chance(0.7),
            "attention_bias": draw.chance(),
            "attention_chunk_size": draw.choice((None, 88, 8192)),
            "attn_temperature_tuning": draw.chance(),
            "floor_scale": draw.choice((90, 8192)),
            "tie_word_embeddings": draw.chance(0.2),
        }
    )  # fmt: skip


def draw_solar_open(draw: Draw) -> DrawnModel:
    unused = ("first_k_dense_replace", "intermediate_size")
    fields = {key: value for key, value in sigmoid_experts(draw).items() if key not in unused}
    head_dim = draw.choice((16, 24, 64))
    return DrawnModel({**fields, **draw.heads(), **draw.rope(), "model_type": "solar_open", "head_dim": head_dim})


DRAWS = {
    "dots1": draw_dots1,
    "glm4_moe": draw_glm4_moe,
    "minimax_m2": draw_minimax_m2,
    "llama4_text": draw_llama4,
    "solar_open": draw_solar_open,
}
