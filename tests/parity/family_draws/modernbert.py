"""ModernBERT."""

from family_draws.draw import Draw, DrawnModel

SCALED = {
    "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def draw_modernbert(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(free_head_dim=False, grouped=False),
            "model_type": "modernbert",
            "num_hidden_layers": draw.choice((1, 4, 5)),
            "local_attention": draw.choice((8, 12)),
            "hidden_activation": draw.choice(("gelu", "gelu_new", "silu")),
            "classifier_activation": draw.choice(("gelu", "relu")),
            "attention_bias": draw.chance(),
            "mlp_bias": draw.chance(),
            "norm_bias": draw.chance(),
            "classifier_bias": draw.chance(),
            "classifier_pooling": draw.choice(("cls", "mean")),
            "deterministic_flash_attn": draw.chance(),
            "tie_word_embeddings": draw.chance(0.7),
            **draw.choice(({}, {"global_rope_theta": 5e4, "local_rope_theta": 2e4}, {"rope_parameters": SCALED})),
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
        },
        "ModernBertForMaskedLM",
    )  # fmt: skip


DRAWS = {"modernbert": draw_modernbert}
