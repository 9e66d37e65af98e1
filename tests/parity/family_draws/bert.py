"""BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ELECTRA, NomicBERT."""

from family_draws.draw import VOCABULARY, Draw, DrawnModel

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")


def _encoder(draw: Draw) -> dict:
    return {
        **draw.sizes(), **draw.heads(free_head_dim=False, grouped=False),
        "type_vocab_size": draw.choice((1, 2)),
        "hidden_act": draw.choice(ACTIVATIONS),
        "tie_word_embeddings": draw.chance(0.7),
        "layer_norm_eps": draw.choice((1e-12, 1e-5)),
    }  # fmt: skip


def draw_bert(draw: Draw) -> DrawnModel:
    return DrawnModel({**_encoder(draw), "model_type": "bert"}, "AutoModelForMaskedLM")


def draw_roberta(draw: Draw) -> DrawnModel:
    return DrawnModel({**_encoder(draw), "model_type": "roberta"}, "AutoModelForMaskedLM")


def draw_xlm_roberta(draw: Draw) -> DrawnModel:
    return DrawnModel({**_encoder(draw), "model_type": "xlm-roberta"}, "AutoModelForMaskedLM")


def draw_camembert(draw: Draw) -> DrawnModel:
    return DrawnModel({**_encoder(draw), "model_type": "camembert"}, "AutoModelForMaskedLM")


def draw_electra(draw: Draw) -> DrawnModel:
    encoder = _encoder(draw)
    sizes = (24, 33, encoder["hidden_size"])
    return DrawnModel(
        {**encoder, "model_type": "electra", "embedding_size": draw.choice(sizes)}, "AutoModelForMaskedLM"
    )


def draw_distilbert(draw: Draw) -> DrawnModel:
    heads = draw.choice((1, 3, 5))
    return DrawnModel(
        {
            "model_type": "distilbert",
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 96,
            "n_layers": draw.randint(1, 2),
            "n_heads": heads,
            "dim": heads * draw.head_width(heads, (7, 12, 26, 64)),
            "hidden_dim": draw.choice((24, 71)),
            "activation": draw.choice(ACTIVATIONS),
            "sinusoidal_pos_embds": draw.chance(),
            "tie_word_embeddings": draw.chance(0.7),
        },
        "AutoModelForMaskedLM",
    )


def draw_nomic_bert(draw: Draw) -> DrawnModel:
    return DrawnModel(
        {
            **_encoder(draw), **draw.heads(grouped=False), **draw.rope(),
            "model_type": "nomic_bert",
            "hidden_act": draw.choice(("silu", "gelu", "gelu_new")),
        },
        "AutoModelForMaskedLM",
    )  # fmt: skip


DRAWS = {
    "bert": draw_bert, "roberta": draw_roberta, "xlm-roberta": draw_xlm_roberta, "camembert": draw_camembert,
    "distilbert": draw_distilbert, "electra": draw_electra, "nomic_bert": draw_nomic_bert,
}  # fmt: skip
