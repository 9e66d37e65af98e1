"""dots.llm1, GLM-4.5."""

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


DRAWS = {"dots1": draw_dots1, "glm4_moe": draw_glm4_moe}
