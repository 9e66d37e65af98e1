"""Variants of Llama in GGUF, from OLMo and GLM to Phi-3, StableLM, Cohere, Hunyuan and ERNIE 4.5.

llama.cpp takes the layers without rotation, and most patterns of local layers, from the architecture.

Source: llama.cpp, src/models/{olmo,olmo2,smollm3,exaone4,granite,seed-oss,arcee,glm4,phi3,stablelm,nemotron}.cpp and
src/models/{command-r,cohere2,chatglm,hunyuan-vl,ernie4-5}.cpp.
"""

from collections.abc import Collection

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.architectures.gguf_architecture import (
    EPSILON,
    GROUPED,
    RMS_EPSILON,
    TENSORS,
    GGUFArchitecture,
    GGUFFields,
    Metadata,
)
from groundup.interop.gguf.architectures.gguf_gemma import SANDWICH, read_window, write_window
from groundup.recipe import ModelConfig

SQUARE = {**GROUPED, "norm_eps": RMS_EPSILON, "rope_theta": "rope.freq_base"}
LAYERNORM = {**GROUPED, "norm_eps": EPSILON, "rope_theta": "rope.freq_base"}
EVERY_FOURTH = ("local", "local", "local", "global")
NO_ROPE_IN_EVERY_FOURTH: Metadata = {"rope_pattern": (True, True, True, False)}
GATE_UP = ("feed_forward.gate_proj", "feed_forward.up_proj")
ALL_BIASES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
EXAONE4_WITH_WINDOW = 64
"""Layers of the only EXAONE 4 with local layers."""


def _read_olmo(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    local = fields.get("rope.freq_base_swa", knobs.get("rope_theta", 10_000.0))
    return read_window(fields, knobs, EVERY_FOURTH) | {"rope_local_theta": local}


def _read_exaone(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    if knobs["num_layers"] != EXAONE4_WITH_WINDOW:
        return {}
    return read_window(fields, knobs, EVERY_FOURTH, window=4096) | NO_ROPE_IN_EVERY_FOURTH


def read_granite(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return {
        "logit_scale": 1 / fields.require("logit_scale"),
        "residual_scale": fields.get("residual_scale") or 1.0,
        "embedding_scale": fields.get("embedding_scale") or 1.0,
        "attention_scale": fields.get("attention.scale") or None,
    }


def write_granite(config: ModelConfig) -> Metadata:
    fields = {
        "logit_scale": 1 / config.logit_scale,
        "residual_scale": config.residual_scale,
        "embedding_scale": config.embedding_scale,
    }
    return fields | ({} if config.attention_scale is None else {"attention.scale": config.attention_scale})


def _read_phi3(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return read_window(fields, knobs, ("local",))


def _write_phi3(config: ModelConfig) -> Metadata:
    if "local" in config.layer_types and (config.sliding_window or 0) < config.context_length:
        raise UserError(f"sliding_window = {config.sliding_window}: llama.cpp does not apply Phi-3's window")
    return {}


def _read_stablelm(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    parallel = "blk.0.ffn_norm.weight" not in tensors
    fields.get("use_parallel_residual")  # llama.cpp looks for the norm, too
    return {"norm_placement": "parallel", "shared_norm": True} if parallel else {}


def _write_stablelm(config: ModelConfig) -> Metadata:
    return {"use_parallel_residual": config.norm_placement == "parallel"}


def _read_cohere(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return {"logit_scale": fields.get("logit_scale") or 1.0}


def _read_cohere2(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    window = read_window(fields, knobs, EVERY_FOURTH)
    return _read_cohere(fields, tensors, knobs) | window | NO_ROPE_IN_EVERY_FOURTH


def _write_cohere(config: ModelConfig) -> Metadata:
    return {"logit_scale": config.logit_scale}


def _write_cohere2(config: ModelConfig) -> Metadata:
    return _write_cohere(config) | {"attention.sliding_window": config.sliding_window or config.context_length}


OLMO2 = GGUFArchitecture(
    "olmo2",
    ("olmo2", "olmo3"),
    knobs={
        "norm_placement": "sublayer_output", "qk_norm": True, "qk_norm_type": "projection", "tie_embeddings": False,
    },
    keys=SQUARE,
    tensors=SANDWICH | TENSORS,
    biases=(),
    read=_read_olmo,
    write=write_window,
)  # fmt: skip
SMOLLM3 = GGUFArchitecture("smollm3", ("smollm3",), knobs=NO_ROPE_IN_EVERY_FOURTH, interleaved=True)
EXAONE4 = GGUFArchitecture(
    "exaone4",
    ("exaone4",),
    knobs={"norm_placement": "sublayer_output", "qk_norm": True},
    keys=SQUARE,
    tensors=SANDWICH | TENSORS,
    biases=(),
    read=_read_exaone,
    write=write_window,
)
OLMO = GGUFArchitecture("olmo", ("olmo",), knobs={"norm": "unweighted_layernorm"}, keys=LAYERNORM, interleaved=True)
HUNYUAN_DENSE = GGUFArchitecture(
    "hunyuan-dense", ("hunyuan_v1_dense",), knobs={"qk_norm": True, "qk_norm_after_rope": True}
)
ERNIE = GGUFArchitecture(
    "ernie4_5", ("ernie4_5",), interleaved=True, biases=("attn_q", "attn_k", "attn_v", "attn_output")
)
GRANITE = GGUFArchitecture(
    "granite", ("granite",), interleaved=True, biases=ALL_BIASES, read=read_granite, write=write_granite
)
SEED_OSS = GGUFArchitecture(
    "seed_oss", ("seed_oss",), tensors={**TENSORS, "blocks.*.feed_forward_norm.": "blk.*.post_attention_norm."}
)
ARCEE = GGUFArchitecture("arcee", ("arcee",), knobs={"feed_forward": "relu2"}, interleaved=True)
GLM4 = GGUFArchitecture(
    "glm4",
    ("glm4",),
    partial_rotation=True,
    knobs={"norm_placement": "sandwich"},
    tensors=SANDWICH | TENSORS,
    interleaved=True,
    fused={"ffn_up": GATE_UP},
)
CHATGLM = GGUFArchitecture(
    "chatglm", ("glm",), partial_rotation=True, keys=SQUARE, interleaved=True, fused={"ffn_up": GATE_UP}
)
PHI3 = GGUFArchitecture(
    "phi3",
    ("phi3",),
    partial_rotation=True,
    keys=SQUARE,
    fused={"attn_qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "ffn_up": GATE_UP},
    biases=(),
    read=_read_phi3,
    write=_write_phi3,
)
STABLELM = GGUFArchitecture(
    "stablelm",
    ("stablelm",),
    partial_rotation=True,
    knobs={"norm": "layernorm", "norm_bias": True, "tie_embeddings": False},
    keys=LAYERNORM,
    biases=("attn_q", "attn_k", "attn_v", "attn_norm", "ffn_norm", "output_norm"),
    read=_read_stablelm,
    write=_write_stablelm,
)
NEMOTRON = GGUFArchitecture(
    "nemotron",
    ("nemotron",),
    partial_rotation=True,
    knobs={"norm": "layernorm", "norm_bias": True, "feed_forward": "relu2", "tie_embeddings": False},
    keys=LAYERNORM,
    biases=None,
)
_COHERE: Metadata = {
    "norm": "layernorm", "norm_placement": "parallel", "shared_norm": True, "tie_embeddings": True,
}  # fmt: skip
COHERE = GGUFArchitecture(
    "command-r", ("cohere",), knobs=_COHERE, keys=LAYERNORM, interleaved=True, read=_read_cohere, write=_write_cohere
)
COHERE2 = GGUFArchitecture(
    "cohere2", ("cohere2",), knobs=_COHERE, keys=LAYERNORM, interleaved=True, read=_read_cohere2, write=_write_cohere2
)
