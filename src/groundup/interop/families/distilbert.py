"""DistilBERT: BERT without token types, half as deep, under other names.

Sources: Sanh et al. 2019; transformers 5, models/distilbert.
"""

from groundup.interop.families.bert import ACTIVATIONS, read_post_norm
from groundup.interop.families.family import ClassifierTensors, Family, Json, inverse_map_value, map_value
from groundup.interop.weight_map import prefix_map

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "context_length": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
}
LAYER = "distilbert.transformer.layer.*."
TENSORS = {
    "embedding.tokens.": "distilbert.embeddings.word_embeddings.",
    "embedding.positions.": "distilbert.embeddings.position_embeddings.",
    "embedding.norm.": "distilbert.embeddings.LayerNorm.",
    "blocks.*.attention.q_proj.": LAYER + "attention.q_lin.",
    "blocks.*.attention.k_proj.": LAYER + "attention.k_lin.",
    "blocks.*.attention.v_proj.": LAYER + "attention.v_lin.",
    "blocks.*.attention.o_proj.": LAYER + "attention.out_lin.",
    "blocks.*.attention_norm.": LAYER + "sa_layer_norm.",
    "blocks.*.feed_forward.up_proj.": LAYER + "ffn.lin1.",
    "blocks.*.feed_forward.down_proj.": LAYER + "ffn.lin2.",
    "blocks.*.feed_forward_norm.": LAYER + "output_layer_norm.",
    "head.dense.": "vocab_transform.",
    "head.norm.": "vocab_layer_norm.",
    "head.head.": "vocab_projector.",
}


def _read(json: Json) -> Json:
    activation = map_value(json, "activation", ACTIVATIONS)
    knobs = read_post_norm(json | {"hidden_act": json["activation"]})
    return knobs | {"norm_eps": 1e-12, "masked_head_activation": activation}


DISTILBERT = Family(
    name="distilbert",
    architecture="DistilBertForMaskedLM",
    headless_architecture="DistilBertModel",
    keys=KEYS,
    defaults={"activation": "gelu", "tie_word_embeddings": True},
    kind="encoder",
    read=_read,
    write=lambda config: {"activation": inverse_map_value(ACTIVATIONS, config.feed_forward)},
    weight_map=prefix_map(TENSORS),
    prefix="distilbert.",
    embedding="distilbert.embeddings.word_embeddings.weight",
    head="vocab_projector.weight",
    masked_head="vocab_transform.weight",
    text_classifier=ClassifierTensors(dense="pre_classifier.", activation="relu"),
    token_classifier=ClassifierTensors(),
    ignored=("*.position_ids",),
)
