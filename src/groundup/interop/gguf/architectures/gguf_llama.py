"""Llama, Mistral, Mixtral, Qwen2, Qwen3 and Qwen3-MoE in GGUF.

Source: llama.cpp, src/models/{llama,qwen2,qwen3,qwen3moe}.cpp.
"""

from collections.abc import Collection

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
from groundup.recipe import ModelConfig


def read_experts(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    """Experts with normalized softmax weights; without `expert_count`, a dense model."""
    if not fields.get("expert_count"):
        return {}
    fields.expect("expert_weights_norm", True)
    fields.expect("expert_gating_func", 1)
    return {
        "moe": {
            "num_experts": fields.require("expert_count"),
            "experts_per_token": fields.require("expert_used_count"),
            "intermediate_size": fields.get("expert_feed_forward_length"),
        }
    }


def write_experts(config: ModelConfig) -> Metadata:
    if config.moe is None:
        return {}
    return {
        "expert_count": config.moe.num_experts,
        "expert_used_count": config.moe.experts_per_token,
        "expert_feed_forward_length": config.moe.intermediate_size,
    }


QWEN2 = GGUFArchitecture("qwen2", ("qwen2",), keys={**GROUPED, "norm_eps": RMS_EPSILON, "rope_theta": "rope.freq_base"})
QWEN3 = GGUFArchitecture("qwen3", ("qwen3",), knobs={"qk_norm": True})
QWEN3_MOE = GGUFArchitecture(
    "qwen3moe", ("qwen3_moe",), knobs={"qk_norm": True}, tensors=EXPERTS | TENSORS, read=read_experts, write=write_experts
)  # fmt: skip
LLAMA = GGUFArchitecture(
    "llama",
    ("llama", "mistral", "mixtral", "qwen2"),  # qwen2: for heads of a free width
    keys=KEYS,
    tensors=EXPERTS | TENSORS,
    interleaved=True,
    biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    read=read_experts,
    write=write_experts,
)
