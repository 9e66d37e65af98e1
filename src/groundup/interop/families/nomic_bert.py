"""NomicBERT: BERT's post-norm blocks with RoPE and SwiGLU, without biases.

Tensors have the names of the published checkpoints, in transformers too; their older config.json is read.

Sources: Nussbaum et al. 2024; transformers 5, models/nomic_bert.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.bert import BERT, KEYS, masked_head_map
from groundup.interop.families.family import ClassifierTensors, Json, inverse_map_value, map_value
from groundup.interop.families.rope_config import read_rope, write_rope
from groundup.interop.weight_map import TensorMap, map_concatenated
from groundup.recipe import ModelConfig

GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "swiglu": "swiglu",
    "gelu": "geglu",
    "gelu_new": "geglu_tanh",
    "gelu_pytorch_tanh": "geglu_tanh",
}
HEAD_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}
LAYER = "nomic_bert.encoder.layers.*."
TENSORS = {
    "embedding.tokens.": "nomic_bert.embeddings.word_embeddings.",
    "embedding.token_types.": "nomic_bert.embeddings.token_type_embeddings.",
    "embedding.norm.": "nomic_bert.emb_ln.",
    "blocks.*.attention.o_proj.": LAYER + "attn.out_proj.",
    "blocks.*.attention_norm.": LAYER + "norm1.",
    "blocks.*.feed_forward.gate_proj.": LAYER + "mlp.fc12.",
    "blocks.*.feed_forward.up_proj.": LAYER + "mlp.fc11.",
    "blocks.*.feed_forward.down_proj.": LAYER + "mlp.fc2.",
    "blocks.*.feed_forward_norm.": LAYER + "norm2.",
    "head.dense.": "cls.predictions.transform.dense.",
    "head.norm.": "cls.predictions.transform.layer_norm.",
    "head.head.weight": "cls.predictions.decoder.weight",
}
OLDER_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation_function": "hidden_act",
    "rotary_emb_base": "rope_theta",
}
FIXED: Json = {
    "prenorm": False,
    "use_rms_norm": False,
    "causal": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "moe_every_n_layers": 0,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
}
"""Settings of the older files. The text model of version 2 has experts: moe_every_n_layers."""


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    heads, parts = config.num_heads * config.head_dim, ("q_proj", "k_proj", "v_proj")
    for i in range(config.num_layers):
        native = [f"blocks.{i}.attention.{part}.weight" for part in parts]
        yield map_concatenated(native, f"nomic_bert.encoder.layers.{i}.attn.Wqkv.weight", [heads] * 3)
    others = [name for name in names if not any(f".{part}." in name for part in parts)]
    yield from masked_head_map(TENSORS, "cls.predictions.bias", "cls.predictions.decoder.bias")(config, others)


def _read(json: Json) -> Json:
    gated = map_value(json, "hidden_act", GATED)
    return {
        "architecture": "encoder",
        "norm": "layernorm",
        "norm_bias": True,
        "norm_placement": "post",
        "embedding_norm": True,
        "feed_forward": gated,
        "masked_head_activation": HEAD_ACTIVATIONS[gated],
        "masked_head_bias": True,
        **read_rope(json),
    }


def _write(config: ModelConfig) -> Json:
    return {"pad_token_id": 0, "hidden_act": inverse_map_value(GATED, config.feed_forward), **write_rope(config)}


NOMIC_BERT = replace(
    BERT,
    name="nomic_bert",
    architecture="NomicBertForMaskedLM",
    headless_architecture="NomicBertModel",
    keys={**KEYS, "head_dim": "head_dim"},
    defaults={**BERT.defaults, "head_dim": None, "hidden_act": "silu", "rope_theta": 1000.0},
    read=_read,
    write=_write,
    weight_map=_weight_map,
    key_aliases=OLDER_KEYS,
    fixed={**BERT.fixed, **FIXED},
    prefix="nomic_bert.",
    embedding="nomic_bert.embeddings.word_embeddings.weight",
    text_classifier=ClassifierTensors(dense="nomic_bert.pooler.dense."),
    ignored=("nomic_bert.pooler.*", "*.position_ids", "cls.predictions.decoder.bias", "*.inv_freq"),
)
