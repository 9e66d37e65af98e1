"""ERNIE 4.5 and its mixture of experts."""

from family_draws.draw import Draw, DrawnModel


def draw_ernie(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(),
            "model_type": "ernie4_5",
            "head_dim": draw.choice((8, 18, 64)),
            "use_bias": draw.chance(),
            "hidden_act": draw.choice(("silu", "gelu")),
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


def draw_ernie_moe(draw: Draw) -> DrawnModel:
    experts, layers = draw.choice((3, 7)), draw.randint(1, 4)
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(),
            "model_type": "ernie4_5_moe",
            "num_hidden_layers": layers,
            "moe_num_experts": experts,
            "moe_k": draw.randint(1, experts),
            "moe_num_shared_experts": draw.choice((0, 1, 2)),
            "moe_intermediate_size": draw.choice((24, 29)),
            "moe_layer_start_index": draw.randint(0, 2),
            "moe_layer_end_index": draw.choice((-1, layers - 1, max(layers - 2, 0))),
            "moe_layer_interval": draw.choice((1, 1, 2)),
            "hidden_act": draw.choice(("silu", "gelu")),
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


DRAWS = {"ernie4_5": draw_ernie, "ernie4_5_moe": draw_ernie_moe}
