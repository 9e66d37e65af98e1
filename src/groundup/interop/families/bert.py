"""BERT: an encoder with post-norm blocks, learned positions and token types.

Sources: Devlin et al. 2019; transformers 5, models/bert.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import ClassifierTensors, Family, Json, inverse_map_value, map_value
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig

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
DEFAULTS: Json = {"layer_norm_eps": 1e-12, "type_vocab_size": 2, "tie_word_embeddings": True, "hidden_act": "gelu"}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
FIXED: Json = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
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
    "head.head.weight": "cls.predictions.decoder.weight",
}


def read_post_norm(json: Json) -> Json:
    """Knobs of every encoder like BERT."""
    if json.get("type_vocab_size") == 0:
        raise UserError("type_vocab_size = 0, expected at least 1")
    return {
        "architecture": "encoder",
        "norm": "layernorm",
        "norm_bias": True,
        "norm_placement": "post",
        "embedding_norm": True,
        "position_embedding": "learned",
        "attention_bias": "all",
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
        "feed_forward_bias": True,
    }


def write_post_norm(config: ModelConfig) -> Json:
    return {"hidden_act": inverse_map_value(ACTIVATIONS, config.feed_forward)}


def _read(json: Json) -> Json:
    return read_post_norm(json) | {"masked_head_activation": map_value(json, "hidden_act", ACTIVATIONS)}


def masked_head_map(
    table: dict[str, str], bias: str, decoder_bias: str
) -> Callable[[ModelConfig, Sequence[str]], Iterator[TensorMap]]:
    """`map_names` with `table`, and the two names of the head's bias.

    transformers adds `decoder_bias`, and ties it to `bias` where the embeddings are tied; else both are stored.
    """

    def build(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
        yield from map_names([name for name in names if name != "head.head.bias"], table)
        if "head.head.bias" in names and config.tie_embeddings:
            yield TensorMap(("head.head.bias",), (bias,))
        elif "head.head.bias" in names:
            yield TensorMap(("head.head.bias",), (decoder_bias, bias), lambda pair: pair[:1], _twice)

    return build


def _twice(tensors: list[Tensor]) -> list[Tensor]:
    return [tensors[0], tensors[0].clone()]


BERT = Family(
    name="bert",
    architecture="BertForMaskedLM",
    headless_architecture="BertModel",
    keys=KEYS,
    defaults=DEFAULTS,
    kind="encoder",
    fixed=FIXED,
    read=_read,
    write=write_post_norm,
    weight_map=masked_head_map(TENSORS, "cls.predictions.bias", "cls.predictions.decoder.bias"),
    prefix="bert.",
    embedding="bert.embeddings.word_embeddings.weight",
    head="cls.predictions.decoder.weight",
    masked_head="cls.predictions.transform.dense.weight",
    text_classifier=ClassifierTensors(dense="bert.pooler.dense."),
    token_classifier=ClassifierTensors(),
    # Next-sentence prediction, its pooler, and duplicates.
    ignored=("bert.pooler.*", "cls.seq_relationship.*", "*.position_ids", "cls.predictions.decoder.bias"),
)
