"""BERT, NomicBERT and ModernBERT in GGUF, for text embeddings: the head for masked tokens is left out.

llama.cpp computes GELU by its tanh approximation, which differs from these models by about 1e-3.

Source: llama.cpp, src/models/{bert,nomic-bert,modern-bert}.cpp.
"""

from collections.abc import Collection

from groundup.interop.gguf.architectures.gguf_architecture import (
    EPSILON,
    QKV,
    SIZES,
    TENSORS,
    GGUFArchitecture,
    GGUFFields,
    Metadata,
)
from groundup.interop.gguf.architectures.gguf_gemma import read_window, write_local_theta, write_window
from groundup.recipe import ModelConfig

POOLINGS = {1: "mean", 2: "cls"}
NO_POOLING = 0
ENCODER: Metadata = {
    "architecture": "encoder",
    "norm": "layernorm",
    "embedding_norm": True,
    "masked_lm_head": False,
    "tie_embeddings": True,
}
BERT_TENSORS = {
    "embedding.tokens.": "token_embd.",
    "embedding.positions.": "position_embd.",
    "embedding.token_types.": "token_types.",
    "embedding.norm.": "token_embd_norm.",
    "blocks.*.attention_norm.": "blk.*.attn_output_norm.",
    "blocks.*.feed_forward_norm.": "blk.*.layer_output_norm.",
}


def _read_pooling(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    fields.expect("pooling_type", NO_POOLING, *POOLINGS)
    return {"pooling": POOLINGS.get(fields.get("pooling_type", NO_POOLING), "mean")}


def _write_pooling(config: ModelConfig) -> Metadata:
    number = next(number for number, name in POOLINGS.items() if name == config.pooling)
    return {"pooling_type": number, "attention.causal": False}


def _read_modernbert(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    window = read_window(fields, knobs, ("global", "local", "local"))
    if window:  # the file counts both sides; our window one side and the token itself
        window["sliding_window"] = window["sliding_window"] // 2 + 1
    pooling = _read_pooling(fields, tensors, knobs)
    return pooling | window | {"rope_local_theta": fields.get("rope.freq_base_swa", 10_000.0)}


def _write_modernbert(config: ModelConfig) -> Metadata:
    window = write_window(config)
    if window:
        window["attention.sliding_window"] = 2 * (window["attention.sliding_window"] - 1)
    return _write_pooling(config) | window | write_local_theta(config)


BERT = GGUFArchitecture(
    "bert",
    ("bert", "roberta", "camembert", "xlm-roberta", "distilbert"),
    knobs={
        **ENCODER,
        "norm_bias": True,
        "norm_placement": "post",
        "position_embedding": "learned",
        "feed_forward": "gelu",
    },
    keys={**SIZES, "norm_eps": EPSILON},
    biases=None,
    tensors=BERT_TENSORS | {name: foreign for name, foreign in TENSORS.items() if name not in BERT_TENSORS},
    left_out=("head.",),
    read=_read_pooling,
    write=_write_pooling,
)
NOMIC_BERT = GGUFArchitecture(
    "nomic-bert",
    ("nomic_bert",),
    knobs={
        **ENCODER,
        "norm_bias": True,
        "norm_placement": "post",
        "feed_forward": "swiglu",
        "masked_head_activation": "silu",
        "masked_head_bias": True,
    },
    keys={**SIZES, "norm_eps": EPSILON, "rope_theta": "rope.freq_base"},
    tensors=BERT_TENSORS | {name: foreign for name, foreign in TENSORS.items() if name not in BERT_TENSORS},
    fused={"attn_qkv": tuple(f"attention.{part}" for part in QKV)},
    biases=("token_embd_norm", "attn_output_norm", "layer_output_norm"),
    left_out=("head.",),
    read=_read_pooling,
    write=_write_pooling,
)
MODERNBERT = GGUFArchitecture(
    "modern-bert",
    ("modernbert",),
    knobs={**ENCODER, "feed_forward": "geglu"},
    keys={**SIZES, "norm_eps": EPSILON, "rope_theta": "rope.freq_base"},
    tensors={"embedding.norm.": "token_embd_norm.", **TENSORS},
    fused={
        "attn_qkv": tuple(f"attention.{part}" for part in QKV),
        "ffn_up": ("feed_forward.gate_proj", "feed_forward.up_proj"),
    },
    left_out=("head.",),
    read=_read_modernbert,
    write=_write_modernbert,
)
