"""BART, mBART, PLBart, Marian, Pegasus, M2M-100, Blenderbot."""

from functools import partial

from family_draws.draw import VOCABULARY, Draw, DrawnModel


def _draw_as(model_type: str, draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 3, 5))
    intermediate = draw.choice((24, 71))
    return DrawnModel(
        {
            "model_type": model_type,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 96,
            "encoder_layers": draw.randint(1, 2),
            "decoder_layers": draw.randint(1, 2),
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": intermediate,
            "decoder_ffn_dim": intermediate,
            "d_model": heads * draw.head_width(heads, (8, 12, 24, 64)),
            "activation_function": draw.choice(("gelu", "relu", "swish", "gelu_new")),
            "scale_embedding": draw.chance(),
            "decoder_start_token_id": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
            "forced_eos_token_id": None,
        },
        "AutoModelForSeq2SeqLM",
    )  # fmt: skip


NAMES = ("bart", "plbart", "mbart", "marian", "pegasus", "m2m_100", "blenderbot")
DRAWS = {name: partial(_draw_as, name) for name in NAMES}
