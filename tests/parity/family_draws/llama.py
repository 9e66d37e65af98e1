"""Llama, Mistral, Qwen2, Qwen3."""

from family_draws.draw import Draw, DrawnModel


def draw_llama(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(),
            "model_type": "llama",
            "attention_bias": draw.chance(),
            "mlp_bias": draw.chance(),
            "tie_word_embeddings": draw.chance(),
            "hidden_act": draw.choice(("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_fast")),
        }
    )  # fmt: skip


def draw_mistral(draw: Draw) -> DrawnModel:
    window = draw.choice((None, 5, 11, 4096))
    return DrawnModel(
        {**draw.sizes(), **draw.heads(), **draw.rope(), "model_type": "mistral", "sliding_window": window}
    )


def _qwen_window(draw: Draw) -> dict:
    if not draw.chance():
        return {}
    return {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": draw.choice((0, 1, 2))}


def draw_qwen2(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(free_head_dim=False), **draw.rope(), **_qwen_window(draw),
            "model_type": "qwen2",
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


def draw_qwen3(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(), **draw.rope(), **_qwen_window(draw),
            "model_type": "qwen3",
            "head_dim": draw.choice((8, 22, 64)),
            "attention_bias": draw.chance(),
            "tie_word_embeddings": draw.chance(),
        }
    )  # fmt: skip


DRAWS = {"llama": draw_llama, "mistral": draw_mistral, "qwen2": draw_qwen2, "qwen3": draw_qwen3}
