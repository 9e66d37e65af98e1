"""BERT."""

from family_draws.draw import Draw, DrawnModel


def draw_bert(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **draw.sizes(), **draw.heads(free_head_dim=False, grouped=False),
            "model_type": "bert",
            "type_vocab_size": draw.choice((1, 2)),
        },
        "BertForMaskedLM",
    )  # fmt: skip


DRAWS = {"bert": draw_bert}
