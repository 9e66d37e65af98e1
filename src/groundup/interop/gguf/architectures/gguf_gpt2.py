"""GPT-2 and its relatives in GGUF: GPT-NeoX, Phi, Falcon, StarCoder 1 and 2, BLOOM, MPT.

Queries, keys and values may be one tensor. llama.cpp computes GELU by its tanh approximation: GPT-NeoX, Falcon and MPT differ by
about 1e-3.

Source: llama.cpp, src/models/{gpt2,gptneox,phi2,falcon,starcoder,starcoder2,bloom,mpt}.cpp.
"""

from collections.abc import Collection

from groundup.interop.gguf.architectures.gguf_architecture import (
    EPSILON,
    GROUPED,
    QKV,
    SIZES,
    TENSORS,
    GGUFArchitecture,
    GGUFFields,
    Metadata,
)
from groundup.recipe import ModelConfig

LAYERNORM: Metadata = {"norm": "layernorm", "norm_bias": True}
FUSED = {"attn_qkv": tuple(f"attention.{part}" for part in QKV)}
ROPE = {"norm_eps": EPSILON, "rope_theta": "rope.freq_base"}
POSITIONS = {"embedding.positions.": "position_embd.", **TENSORS}


def _read_neox(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return {"norm_placement": "parallel" if fields.require("use_parallel_residual") else "pre"}


def _write_neox(config: ModelConfig) -> Metadata:
    return {"use_parallel_residual": config.norm_placement == "parallel"}


ALIBI_BIAS = 8.0
"""Of the first head's slope, 2^(-8 / heads)."""


def _read_mpt(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    fields.expect("attention.max_alibi_bias", ALIBI_BIAS)
    fields.require("attention.max_alibi_bias")
    return {}


def _write_mpt(config: ModelConfig) -> Metadata:
    return {"attention.max_alibi_bias": ALIBI_BIAS}


GPT2 = GGUFArchitecture(
    "gpt2",
    ("gpt2",),
    knobs={**LAYERNORM, "position_embedding": "learned", "feed_forward": "gelu_tanh"},
    keys={**SIZES, "norm_eps": EPSILON},
    tensors=POSITIONS,
    fused=FUSED,
    biases=None,
)
STARCODER = GGUFArchitecture(
    "starcoder",
    ("gpt_bigcode",),
    knobs={**LAYERNORM, "position_embedding": "learned", "feed_forward": "gelu_tanh"},
    keys={**GROUPED, "norm_eps": EPSILON},
    tensors=POSITIONS,
    fused=FUSED,
    biases=None,
)
GPT_NEOX = GGUFArchitecture(
    "gptneox",
    ("gpt_neox",),
    partial_rotation=True,
    knobs={**LAYERNORM, "feed_forward": "gelu", "tie_embeddings": False},
    keys={**SIZES, **ROPE},
    fused=FUSED,
    biases=None,
    read=_read_neox,
    write=_write_neox,
)
PHI2 = GGUFArchitecture(
    "phi2",
    ("phi",),
    partial_rotation=True,
    knobs={
        **LAYERNORM,
        "norm_placement": "parallel",
        "shared_norm": True,
        "feed_forward": "gelu_tanh",
        "head_bias": True,
        "tie_embeddings": False,
    },
    keys={**GROUPED, **ROPE},
    biases=None,
)
FALCON = GGUFArchitecture(
    "falcon",
    ("falcon",),
    knobs={**LAYERNORM, "norm_placement": "parallel", "shared_norm": True, "feed_forward": "gelu"},
    keys={**GROUPED, **ROPE},
    fused=FUSED,
    biases=("attn_norm", "output_norm"),
)
STARCODER2 = GGUFArchitecture(
    "starcoder2", ("starcoder2",), knobs={**LAYERNORM, "feed_forward": "gelu_tanh"}, keys={**GROUPED, **ROPE}, biases=None
)  # fmt: skip
BLOOM = GGUFArchitecture(
    "bloom",
    ("bloom",),
    knobs={
        **LAYERNORM,
        "embedding_norm": True,
        "keep_first_norm": True,
        "position_embedding": "alibi",
        "feed_forward": "gelu_tanh",
    },
    keys={**SIZES, "norm_eps": EPSILON},
    tensors={"embedding.norm.": "token_embd_norm.", **TENSORS},
    fused=FUSED,
    biases=None,
)
MPT = GGUFArchitecture(
    "mpt",
    ("mpt",),
    knobs={"norm": "layernorm", "position_embedding": "alibi", "feed_forward": "gelu"},
    keys={**SIZES, "norm_eps": EPSILON},
    fused=FUSED,
    biases=(),
    read=_read_mpt,
    write=_write_mpt,
)
