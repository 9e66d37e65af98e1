"""Mixtures of experts in GGUF: Qwen2-MoE, OLMoE, gpt-oss, GLM-4.5, dots.llm1, MiniMax-M2, Granite-MoE, Hunyuan, ERNIE 4.5.

llama.cpp rounds the bounds of gpt-oss's yarn, which the model itself does not.

Source: llama.cpp, src/models/{qwen2moe,olmoe,openai-moe,glm4-moe,dots1,minimax-m2,granite-moe,hunyuan-moe,
ernie4-5-moe}.cpp.
"""

from collections.abc import Collection

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.architectures.gguf_architecture import (
    EXPERTS,
    GROUPED,
    KEYS,
    RMS_EPSILON,
    TENSORS,
    GGUFArchitecture,
    GGUFFields,
    Metadata,
)
from groundup.interop.gguf.architectures.gguf_gemma import read_window
from groundup.interop.gguf.architectures.gguf_llama_variants import read_granite, write_granite
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import MoEConfig

SQUARE = {**GROUPED, "norm_eps": RMS_EPSILON, "rope_theta": "rope.freq_base"}
UNGROUPED = {knob: key for knob, key in KEYS.items() if knob != "num_kv_heads"}
"""llama.cpp wants as many key heads as query heads in these architectures."""

SOFTMAX, SIGMOID = 1, 2
"""Values of expert_gating_func."""

SHARED = {
    "blocks.*.feed_forward.shared_experts.gate.": "blk.*.ffn_gate_inp_shexp.",
    "blocks.*.feed_forward.shared_experts.gate_proj.": "blk.*.ffn_gate_shexp.",
    "blocks.*.feed_forward.shared_experts.up_proj.": "blk.*.ffn_up_shexp.",
    "blocks.*.feed_forward.shared_experts.down_proj.": "blk.*.ffn_down_shexp.",
}
SELECTION_BIAS = {"blocks.*.feed_forward.router.load_balancer.bias": "blk.*.exp_probs_b.bias"}
POST_NORM = {"blocks.*.feed_forward_norm.": "blk.*.post_attention_norm."}
GPT_OSS_TENSORS = {
    "blocks.*.attention.attention_function.sinks": "blk.*.attn_sinks.weight",
    "blocks.*.feed_forward.experts.gate_bias": "blk.*.ffn_gate_exps.bias",
    "blocks.*.feed_forward.experts.up_bias": "blk.*.ffn_up_exps.bias",
    "blocks.*.feed_forward.experts.down_bias": "blk.*.ffn_down_exps.bias",
    **POST_NORM,
}


def _moe(config: ModelConfig) -> MoEConfig:
    return config.moe or MoEConfig(num_experts=1, experts_per_token=1)


def read_counts(fields: GGUFFields, width: int) -> Metadata:
    for key in ("expert_group_count", "expert_group_used_count"):
        fields.expect(key, 0, 1)
    return {
        "num_experts": fields.require("expert_count"),
        "experts_per_token": fields.require("expert_used_count"),
        "intermediate_size": fields.get("expert_feed_forward_length", width),
    }


def write_counts(config: ModelConfig) -> Metadata:
    moe = _moe(config)
    return {
        "expert_count": moe.num_experts,
        "expert_used_count": moe.experts_per_token,
        "expert_feed_forward_length": moe.intermediate_size or config.intermediate_size,
    }


def _read_softmax(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    """Experts with softmax weights that are not normalized."""
    fields.expect("expert_weights_norm", False)
    fields.expect("expert_gating_func", SOFTMAX)
    return {"moe": read_counts(fields, knobs["intermediate_size"]) | {"normalize_scores": False}}


def _read_qwen2_moe(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    moe = _read_softmax(fields, tensors, knobs)["moe"]
    shared = fields.get("expert_shared_feed_forward_length", knobs["intermediate_size"])
    moe |= {"num_shared_experts": shared // moe["intermediate_size"], "shared_expert_gate": True}
    return {"moe": moe}


def _write_qwen2_moe(config: ModelConfig) -> Metadata:
    counts = write_counts(config)
    shared = _moe(config).num_shared_experts * counts["expert_feed_forward_length"]
    return counts | {"expert_shared_feed_forward_length": shared}


def _read_sigmoid(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    """Experts chosen by sigmoid scores and a correction bias, as in DeepSeek-V3."""
    fields.expect("expert_gating_func", SIGMOID)
    moe = read_counts(fields, knobs["intermediate_size"]) | {
        "num_shared_experts": fields.get("expert_shared_count", 0),
        "num_dense_layers": fields.get("leading_dense_block_count", 0),
        "router_activation": "sigmoid",
        "normalize_scores": fields.get("expert_weights_norm", False),
        "routed_scale": fields.get("expert_weights_scale") or 1.0,
        "load_balancing": "bias",
    }
    return {"moe": moe, "qk_norm": "blk.0.attn_q_norm.weight" in tensors}


def _read_minimax(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return {"moe": _read_sigmoid(fields, tensors, knobs)["moe"] | {"normalize_scores": True}}


def _write_minimax(config: ModelConfig) -> Metadata:
    return write_counts(config) | {"expert_gating_func": SIGMOID}


def _write_sigmoid(config: ModelConfig) -> Metadata:
    moe = _moe(config)
    return write_counts(config) | {
        "expert_shared_count": moe.num_shared_experts,
        "leading_dense_block_count": moe.num_dense_layers,
        "expert_gating_func": SIGMOID,
        "expert_weights_norm": moe.normalize_scores,
        "expert_weights_scale": moe.routed_scale,
    }


def _read_gpt_oss(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    moe = read_counts(fields, knobs["intermediate_size"]) | {"expert_bias": True, "router_bias": True}
    return {"moe": moe, **read_window(fields, knobs, ("local", "global"))}


def _write_gpt_oss(config: ModelConfig) -> Metadata:
    return write_counts(config) | {"attention.sliding_window": config.sliding_window or config.context_length}


def _read_shared(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    """Experts with normalized softmax weights, and shared ones by their total width."""
    fields.expect("expert_weights_norm", True)
    fields.expect("expert_gating_func", SOFTMAX)
    fields.get("expert_shared_count")
    moe = read_counts(fields, knobs["intermediate_size"])
    shared = fields.get("expert_shared_feed_forward_length", 0)
    if shared % moe["intermediate_size"]:
        raise UserError(
            f"{fields.name}.expert_shared_feed_forward_length = {shared}, expected a multiple of the experts' width, "
            f"{moe['intermediate_size']}"
        )
    return {"moe": moe | {"num_shared_experts": shared // moe["intermediate_size"]}}


def _write_shared(config: ModelConfig) -> Metadata:
    counts = write_counts(config)
    shared = _moe(config).num_shared_experts
    length = {"expert_shared_feed_forward_length": shared * counts["expert_feed_forward_length"]}
    return counts | {"expert_shared_count": shared} | (length if shared else {})


def _read_granite_moe(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    fields.expect("expert_feed_forward_length", knobs["intermediate_size"])
    return read_granite(fields, tensors, knobs) | _read_shared(fields, tensors, knobs)


def _write_granite_moe(config: ModelConfig) -> Metadata:
    return write_granite(config) | _write_shared(config)


def _write_hunyuan_moe(config: ModelConfig) -> Metadata:
    if not _moe(config).num_shared_experts:
        raise UserError("moe.num_shared_experts must be at least 1, is 0")
    return _write_shared(config)


def _read_ernie_moe(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    step, first = fields.require("interleave_moe_layer_step"), fields.get("leading_dense_block_count", 0)
    dense = [layer for layer in range(knobs["num_layers"]) if layer < first or (layer + 1) % step]
    moe = _read_shared(fields, tensors, knobs)["moe"]
    biased = any(name.endswith("exp_probs_b.bias") for name in tensors)
    return {"moe": moe | {"dense_layers": dense, "load_balancing": "bias" if biased else "none"}}


def _write_ernie_moe(config: ModelConfig) -> Metadata:
    dense = [layer for layer in range(config.num_layers) if _moe(config).is_dense(layer)]
    first = next((layer for layer in range(config.num_layers) if layer not in dense), config.num_layers)
    return _write_shared(config) | {"leading_dense_block_count": first, "interleave_moe_layer_step": 1}


QWEN2_MOE = GGUFArchitecture(
    "qwen2moe",
    ("qwen2_moe",),
    knobs={"tie_embeddings": False},
    keys=SQUARE,
    tensors=SHARED | EXPERTS | TENSORS,
    read=_read_qwen2_moe,
    write=_write_qwen2_moe,
)
OLMOE = GGUFArchitecture(
    "olmoe",
    ("olmoe",),
    knobs={"tie_embeddings": False, "qk_norm": True, "qk_norm_type": "projection"},
    keys={knob: key for knob, key in UNGROUPED.items() if knob != "head_dim"},
    tensors=EXPERTS | TENSORS,
    biases=(),
    read=_read_softmax,
    write=write_counts,
)
GPT_OSS = GGUFArchitecture(
    "gpt-oss",
    ("gpt_oss",),
    knobs={"tie_embeddings": False, "feed_forward": "swiglu_clamped", "attention_sinks": True},
    tensors={**EXPERTS, **TENSORS, **GPT_OSS_TENSORS},
    biases=None,
    untruncated_yarn=True,
    read=_read_gpt_oss,
    write=_write_gpt_oss,
)
GLM4_MOE = GGUFArchitecture(
    "glm4moe",
    ("glm4_moe",),
    partial_rotation=True,
    tensors={**SELECTION_BIAS, **SHARED, **EXPERTS, **TENSORS, **POST_NORM},
    biases=("attn_q", "attn_k", "attn_v", "exp_probs_b"),
    read=_read_sigmoid,
    write=_write_sigmoid,
)
DOTS1 = GGUFArchitecture(
    "dots1",
    ("dots1",),
    keys=UNGROUPED,
    tensors=SELECTION_BIAS | SHARED | EXPERTS | TENSORS,
    biases=("exp_probs_b",),
    read=_read_sigmoid,
    write=_write_sigmoid,
)
MINIMAX_M2 = GGUFArchitecture(
    "minimax-m2",
    ("minimax_m2",),
    knobs={"tie_embeddings": False, "qk_norm": True, "qk_norm_type": "projection"},
    partial_rotation=True,
    tensors=SELECTION_BIAS | EXPERTS | TENSORS,
    biases=("exp_probs_b",),
    read=_read_minimax,
    write=_write_minimax,
)
GRANITE_MOE = GGUFArchitecture(
    "granitemoe",
    ("granitemoe", "granitemoeshared"),
    tensors=SHARED | EXPERTS | TENSORS,
    interleaved=True,
    biases=("attn_q", "attn_k", "attn_v", "attn_output"),
    read=_read_granite_moe,
    write=_write_granite_moe,
)
HUNYUAN_MOE = GGUFArchitecture(
    "hunyuan-moe",
    ("hunyuan_v1_moe",),
    knobs={"qk_norm": True, "qk_norm_after_rope": True},
    tensors=SHARED | EXPERTS | TENSORS,
    read=_read_shared,
    write=_write_hunyuan_moe,
)
ERNIE_MOE = GGUFArchitecture(
    "ernie4_5-moe",
    ("ernie4_5_moe",),
    tensors=SELECTION_BIAS | SHARED | EXPERTS | TENSORS,
    interleaved=True,
    biases=("attn_q", "attn_k", "attn_v", "attn_output", "exp_probs_b"),
    read=_read_ernie_moe,
    write=_write_ernie_moe,
)
