"""Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, FlexOlmo, Granite-MoE, Hunyuan, Phi-3.5-MoE."""

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
    window = {"use_sliding_window": True, "sliding_window": 9} if draw.chance(0.3) else {}
    return DrawnModel(
        {
            **_qwen_experts(draw), **draw.heads(), **draw.rope(), **window,
            "model_type": "qwen3_moe",
            "head_dim": draw.choice((8, 18, 64)),
            "num_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "attention_bias": draw.chance(),
        }
    )  # fmt: skip


def draw_qwen2_moe(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 7))
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": draw.choice((1, 3, 28))}
    fields = _qwen_experts(draw)
    return DrawnModel(
        {
            **fields, **draw.heads(free_head_dim=False), **draw.rope(), **(window if draw.chance(0.3) else {}),
            "model_type": "qwen2_moe",
            "num_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "shared_expert_intermediate_size": draw.choice((1, 4)) * fields["moe_intermediate_size"],
            "qkv_bias": draw.chance(0.8),
        }
    )  # fmt: skip


def _qwen_experts(draw: Draw) -> dict:
    """Experts in some layers: dense ones by number, or all but every second or third."""
    sizes = draw.sizes() | {"num_hidden_layers": draw.randint(1, 4)}
    return sizes | {
        "moe_intermediate_size": draw.choice((24, 29)),
        "norm_topk_prob": draw.chance(),
        "mlp_only_layers": draw.sample(range(4), draw.randint(0, 3)),
        "decoder_sparse_step": draw.choice((1, 1, 2, 3)),
        "hidden_act": draw.choice(("silu", "gelu")),
        "tie_word_embeddings": draw.chance(0.3),
    }


def draw_olmoe(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 7))
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(free_head_dim=False), **draw.rope(),
            "model_type": "olmoe",
            "num_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "norm_topk_prob": draw.chance(),
            "attention_bias": draw.chance(),
            "hidden_act": draw.choice(("silu", "gelu")),
            "tie_word_embeddings": draw.chance(0.3),
        }
    )  # fmt: skip


def draw_granite_moe(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 7))
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(),
            "model_type": "granitemoe",
            "num_local_experts": experts,
            "num_experts_per_tok": draw.randint(1, experts),
            "attention_bias": draw.chance(),
            "embedding_multiplier": draw.choice((1.0, 12.0)),
            "residual_multiplier": draw.choice((1.0, 0.22)),
            "attention_multiplier": draw.choice((0.015625, 0.25)),
            "logits_scaling": draw.choice((1.0, 6.0)),
            "hidden_act": draw.choice(("silu", "gelu")),
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


def draw_flex_olmo(draw: Draw) -> DrawnModel:
    return DrawnModel({**draw_olmoe(draw).config, "model_type": "flex_olmo", "pad_token_id": 0})


def draw_granite_moe_shared(draw: Draw) -> DrawnModel:
    config = draw_granite_moe(draw).config
    shared = draw.choice((0, 1, 2)) * config["intermediate_size"]
    return DrawnModel({**config, "model_type": "granitemoeshared", "shared_intermediate_size": shared})


def draw_hunyuan(draw: Draw) -> DrawnModel:
    rope = draw.choice((draw.rope(), {"rope_scaling": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}}))
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **rope,
            "model_type": "hunyuan_v1_dense",
            "head_dim": draw.choice((8, 18, 64)),
            "attention_bias": draw.chance(),
            "hidden_act": draw.choice(("silu", "gelu")),
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


def draw_hunyuan_moe(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 7))
    chosen = draw.randint(1, experts)
    fields = {"num_experts": experts, "moe_topk": draw.choice((chosen, [chosen] * 3))}
    return DrawnModel({**draw_hunyuan(draw).config, **fields, "model_type": "hunyuan_v1_moe"})


def draw_phimoe(draw: Draw) -> DrawnModel:
    heads = draw.heads(free_head_dim=False)
    pairs = heads["hidden_size"] // heads["num_attention_heads"] // 2
    longrope = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 64,
        "short_factor": [1.0 + 0.1 * pair for pair in range(pairs)],
        "long_factor": [1.0 + pair for pair in range(pairs)],
        "short_mscale": 1.243,
        "long_mscale": 1.243,
    }
    return DrawnModel(
        {
            **draw.sizes(), **heads,
            "model_type": "phimoe",
            "rope_scaling": draw.choice((None, longrope)),
            "max_position_embeddings": 128,
            "num_local_experts": draw.choice((2, 3, 7)),
            "router_jitter_noise": draw.choice((0.01, 0.2)),
            "attention_bias": draw.chance(),
            "lm_head_bias": draw.chance(),
            "sliding_window": draw.choice((None, 7)),
            "hidden_act": draw.choice(("silu", "gelu")),
            "tie_word_embeddings": draw.chance(0.2),
        }
    )  # fmt: skip


DRAWS = {
    "phimoe": draw_phimoe,
    "flex_olmo": draw_flex_olmo,
    "granitemoeshared": draw_granite_moe_shared,
    "hunyuan_v1_dense": draw_hunyuan,
    "hunyuan_v1_moe": draw_hunyuan_moe,
    "mixtral": draw_mixtral,
    "qwen3_moe": draw_qwen3_moe,
    "qwen2_moe": draw_qwen2_moe,
    "olmoe": draw_olmoe,
    "granitemoe": draw_granite_moe,
}
