"""gpt-oss."""

from family_draws.draw import Draw, DrawnModel

YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 16, "truncate": False}
ROPES = (
    YARN,
    {**YARN, "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
    {**YARN, "truncate": True},
    {"rope_type": "default"},
)


def draw_gpt_oss(draw: Draw) -> DrawnModel:
    experts = draw.choice((3, 5))
    sizes = draw.sizes()
    fields = {
        **sizes, **draw.heads(),
        "model_type": "gpt_oss",
        "head_dim": draw.choice((8, 22, 64)),
        "rope_parameters": {**draw.choice(ROPES), "rope_theta": draw.choice((150_000.0, 1e4))},
        "sliding_window": draw.choice((5, 128)),
        "num_local_experts": experts,
        "num_experts_per_tok": draw.randint(1, experts),
        "swiglu_limit": draw.choice((7.0, 1.0)),
        "swiglu_alpha": draw.choice((1.702, 1.0)),
        "attention_bias": draw.chance(0.8),
        "tie_word_embeddings": draw.chance(0.2),
    }  # fmt: skip
    if draw.chance():
        kinds = ("sliding_attention", "full_attention")
        fields["layer_types"] = [draw.choice(kinds) for _ in range(sizes["num_hidden_layers"])]
    return DrawnModel(fields)


DRAWS = {"gpt_oss": draw_gpt_oss}
