"""DeepSeek-V2 and V3 and other models with latent attention in GGUF.

The matrix behind the latent vector is two tensors: of the keys, transposed for each head, and of the values. llama.cpp attends
over the latent vectors, so that the key width of the metadata is theirs. It normalizes them with the epsilon of the other norms,
and takes the two factors of DeepSeek's yarn as equal.

Source: llama.cpp, src/models/deepseek2.cpp.
"""

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.youtu import last_rows_interleaved
from groundup.interop.gguf.architectures.gguf_architecture import KEYS, TENSORS, GGUFArchitecture, GGUFFields, Metadata
from groundup.interop.gguf.architectures.gguf_experts import (
    EXPERTS,
    SELECTION_BIAS,
    SHARED,
    SIGMOID,
    SOFTMAX,
    write_counts,
)
from groundup.interop.weight_map import TensorMap, map_concatenated
from groundup.model.latent_attention import LATENT_NORM_EPS
from groundup.recipe import ModelConfig

ROUTER_ACTIVATIONS = {SOFTMAX: "softmax", SIGMOID: "sigmoid"}
LITE_LAYERS = (26, 27)
"""Layer counts that mean one matrix for the queries, to llama.cpp."""

LATENT_TENSORS = {
    "blocks.*.attention.q_a_proj.": "blk.*.attn_q_a.",
    "blocks.*.attention.q_a_norm.": "blk.*.attn_q_a_norm.",
    "blocks.*.attention.kv_a_proj.": "blk.*.attn_kv_a_mqa.",
    "blocks.*.attention.kv_a_norm.": "blk.*.attn_kv_a_norm.",
    "blocks.*.attention.kv_b_proj.": "blk.*.attn_kv_b.",
}


def _read(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    fields.expect("attention.head_count_kv", 1)
    q_rank, kv_rank = fields.get("attention.q_lora_rank", 0) or None, fields.require("attention.kv_lora_rank")
    read = {
        "num_kv_heads": knobs["num_heads"],
        "head_dim": fields.require("attention.key_length_mla"),
        "latent_attention": {
            "q_rank": q_rank,
            "kv_rank": kv_rank,
            "rope_head_dim": fields.require("rope.dimension_count"),
            "value_head_dim": fields.require("attention.value_length_mla"),
        },
    }
    moe = _read_experts(fields, tensors, knobs)
    return read | ({"moe": moe} if moe else {})


def _read_experts(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata | None:
    dense = fields.get("leading_dense_block_count", 0)
    shared, width = fields.get("expert_shared_count", 0), fields.get("expert_feed_forward_length")
    if not fields.get("expert_count"):
        return None
    activation = ROUTER_ACTIVATIONS.get(fields.get("expert_gating_func", SOFTMAX))
    groups = fields.get("expert_group_count", 1) or 1, fields.get("expert_group_used_count", 1) or 1
    if groups[0] != groups[1] and activation == "softmax":
        raise UserError(
            f"deepseek2.expert_group_count = {groups[0]} with softmax scores is not supported, expected 1: llama.cpp ranks "
            "a group by its two best experts, DeepSeek-V2 by its best"
        )
    return {
        "num_experts": fields.require("expert_count"),
        "experts_per_token": fields.require("expert_used_count"),
        "intermediate_size": width,
        "num_shared_experts": shared,
        "num_dense_layers": dense,
        "router_activation": activation,
        "normalize_scores": fields.get("expert_weights_norm", False),
        "routed_scale": fields.get("expert_weights_scale") or 1.0,
        "num_expert_groups": groups[0],
        "experts_groups_per_token": groups[1],
        "load_balancing": "bias" if any(name.endswith("exp_probs_b.bias") for name in tensors) else "none",
    }


def _write(config: ModelConfig) -> Metadata:
    latent, moe = config.latent_attention, config.moe
    if latent is None:
        raise UserError("latent_attention must be set")
    if config.norm_eps != LATENT_NORM_EPS:
        raise UserError(f"norm_eps must be {LATENT_NORM_EPS}, is {config.norm_eps}")
    if config.num_layers in LITE_LAYERS and latent.q_rank is not None:
        raise UserError(f"latent_attention.q_rank must be unset in {config.num_layers} layers, is {latent.q_rank}")
    fields: Metadata = {
        "attention.head_count_kv": 1,
        "attention.key_length": latent.kv_rank + latent.rope_head_dim,
        "attention.value_length": latent.kv_rank,
        "attention.key_length_mla": config.head_dim,
        "attention.value_length_mla": latent.value_head_dim,
        "attention.kv_lora_rank": latent.kv_rank,
        "attention.q_lora_rank": latent.q_rank or 0,
        "leading_dense_block_count": config.num_layers,
        "expert_shared_count": 0,
        "expert_feed_forward_length": config.intermediate_size,
    }
    if moe is None:
        return fields
    if not moe.num_shared_experts:
        raise UserError("moe.num_shared_experts must be at least 1, is 0")
    number = next((number for number, name in ROUTER_ACTIVATIONS.items() if name == moe.router_activation), 0)
    return fields | write_counts(config) | {
        "expert_shared_count": moe.num_shared_experts,
        "leading_dense_block_count": sum(moe.is_dense(layer) for layer in range(config.num_layers)),
        "expert_gating_func": number,
        "expert_weights_norm": moe.normalize_scores,
        "expert_weights_scale": moe.routed_scale,
        "expert_group_count": moe.num_expert_groups,
        "expert_group_used_count": moe.experts_groups_per_token,
    }  # fmt: skip


def _adjust(config: ModelConfig, maps: Iterable[TensorMap]) -> Iterator[TensorMap]:
    latent = config.latent_attention
    for each in maps:
        native, foreign = each.native[0], each.foreign[0]
        if latent is None or ".attention." not in native or not native.endswith("_proj.weight"):
            yield each
        elif ".kv_b_proj." in native:
            yield _map_keys_and_values(each, config)
        elif ".q_proj." in native:
            order = last_rows_interleaved(
                config.num_heads, config.head_dim - latent.rope_head_dim, latent.rope_head_dim
            )
            foreign = foreign.replace("attn_q.", "attn_q_b.") if latent.q_rank else foreign
            yield map_concatenated([native], foreign, [len(order)], order=order)
        elif ".kv_a_proj." in native:
            order = last_rows_interleaved(1, latent.kv_rank, latent.rope_head_dim)
            yield map_concatenated([native], foreign, [len(order)], order=order)
        else:
            yield each


def _map_keys_and_values(same: TensorMap, config: ModelConfig) -> TensorMap:
    """(H (N + Kv), R) as (H, R, N) and (H, Kv, R)."""
    latent = config.latent_attention
    assert latent is not None
    widths = [config.head_dim - latent.rope_head_dim, latent.value_head_dim]

    def split(tensors: list[Tensor]) -> list[Tensor]:
        keys, values = tensors[0].unflatten(0, (config.num_heads, -1)).split(widths, dim=1)
        return [keys.transpose(1, 2).contiguous(), values.contiguous()]

    def join(tensors: list[Tensor]) -> list[Tensor]:
        keys, values = tensors
        return [torch.cat((keys.transpose(1, 2), values), dim=1).flatten(0, 1)]

    names = tuple(same.foreign[0].replace("attn_kv_b", part) for part in ("attn_k_b", "attn_v_b"))
    return TensorMap(same.native, names, to_native=join, to_foreign=split)


DEEPSEEK2 = GGUFArchitecture(
    "deepseek2",
    ("deepseek_v2", "deepseek_v3", "youtu", "glm4_moe_lite", "sarvam_mla"),
    keys={knob: key for knob, key in KEYS.items() if knob not in ("num_kv_heads", "head_dim")},
    tensors=LATENT_TENSORS | SELECTION_BIAS | SHARED | EXPERTS | TENSORS,
    biases=("exp_probs_b",),
    read=_read,
    write=_write,
    adjust=_adjust,
)
