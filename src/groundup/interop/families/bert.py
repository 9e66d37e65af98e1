"""BERT: an encoder with post-norm blocks, learned positions and token types.

Sources: Devlin et al. 2019; transformers 5, models/bert.
"""

from groundup.interop.families.family import Family, Json
from groundup.interop.weight_map import prefix_map

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "num_token_types": "type_vocab_size",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS: Json = {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "tie_word_embeddings": True}
FIXED: Json = {
    "hidden_act": "gelu",
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}
LAYER = "bert.encoder.layer.*."
TENSORS = {
    "embedding.tokens.": "bert.embeddings.word_embeddings.",
    "embedding.positions.": "bert.embeddings.position_embeddings.",
    "embedding.token_types.": "bert.embeddings.token_type_embeddings.",
    "embedding.norm.": "bert.embeddings.LayerNorm.",
    "blocks.*.attention.q_proj.": LAYER + "attention.self.query.",
    "blocks.*.attention.k_proj.": LAYER + "attention.self.key.",
    "blocks.*.attention.v_proj.": LAYER + "attention.self.value.",
    "blocks.*.attention.o_proj.": LAYER + "attention.output.dense.",
    "blocks.*.attention_norm.": LAYER + "attention.output.LayerNorm.",
    "blocks.*.feed_forward.up_proj.": LAYER + "intermediate.dense.",
    "blocks.*.feed_forward.down_proj.": LAYER + "output.dense.",
    "blocks.*.feed_forward_norm.": LAYER + "output.LayerNorm.",
    "head.dense.": "cls.predictions.transform.dense.",
    "head.norm.": "cls.predictions.transform.LayerNorm.",
    "head.head.bias": "cls.predictions.bias",
    "head.head.weight": "cls.predictions.decoder.weight",
}


def _read(json: Json) -> Json:
    return {
        "architecture": "encoder",
        "norm": "layernorm",
        "norm_bias": True,
        "norm_placement": "post",
        "embedding_norm": True,
        "position_embedding": "learned",
        "attention_bias": "all",
        "feed_forward": "gelu",
        "feed_forward_bias": True,
    }


BERT = Family(
    name="bert",
    architecture="BertForMaskedLM",
    headless_architecture="BertModel",
    keys=KEYS,
    defaults=DEFAULTS,
    kind="encoder",
    fixed=FIXED,
    read=_read,
    write=lambda config: {},
    weight_map=prefix_map(TENSORS),
    prefix="bert.",
    embedding="bert.embeddings.word_embeddings.weight",
    head="cls.predictions.decoder.weight",
    masked_head="cls.predictions.transform.dense.weight",
    # Next-sentence prediction, its pooler, and duplicates.
    ignored=("bert.pooler.*", "cls.seq_relationship.*", "*.position_ids", "cls.predictions.decoder.bias"),
)
