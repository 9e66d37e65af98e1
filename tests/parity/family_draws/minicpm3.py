"""MiniCPM3."""

from family_draws.draw import Draw, DrawnModel
from family_draws.youtu import latent_attention


def draw_minicpm3(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **latent_attention(draw),
            "model_type": "minicpm3",
            "hidden_size": draw.choice((30, 90)),
            "scale_emb": draw.choice((12, 1, 2.5)),
            "scale_depth": draw.choice((1.4, None, 0.7)),
            "dim_model_base": draw.choice((None, 16, 256)),
        }
    )  # fmt: skip


DRAWS = {"minicpm3": draw_minicpm3}
