"""Qwen3-Next and Qwen3.5: three layers of linear attention (gated delta rule), then one of gated attention; experts or not.

Sources: the configuration and modelling files of transformers 5, models/{qwen3_next,qwen3_5,qwen3_5_moe}. Qwen3-Next's files
fuse the matrices of linear attention by key heads; Qwen3.5's do not. Layers that predict further tokens (mtp) are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, map_value
from groundup.interop.families.llama import BIASES, DEFAULTS, LLAMA, TENSORS, read_decoder, write_decoder
from groundup.interop.families.mixtral import experts_map
from groundup.interop.families.qwen_moe import SHARED_EXPERTS, read_experts, write_experts
from groundup.interop.families.rope_config import read_partial_rope, write_layers, write_partial_rotary
from groundup.interop.weight_map import TensorMap, map_concatenated, map_names
from groundup.recipe import ModelConfig

TYPES = {"linear_attention": "linear", "full_attention": "global"}
LINEAR_KEYS = {
    "num_key_heads": "linear_num_key_heads",
    "num_value_heads": "linear_num_value_heads",
    "key_head_dim": "linear_key_head_dim",
    "value_head_dim": "linear_value_head_dim",
    "convolution_width": "linear_conv_kernel_dim",
}
LINEAR = "model.layers.*.linear_attn."
LINEAR_TENSORS = {
    "blocks.*.attention.qkv_proj.": f"{LINEAR}in_proj_qkv.",
    "blocks.*.attention.gate_proj.": f"{LINEAR}in_proj_z.",
    "blocks.*.attention.strength_proj.": f"{LINEAR}in_proj_b.",
    "blocks.*.attention.step_proj.": f"{LINEAR}in_proj_a.",
    "blocks.*.attention.convolution.": f"{LINEAR}conv1d.",
    "blocks.*.attention.step_bias": f"{LINEAR}dt_bias",
    "blocks.*.attention.log_decay": f"{LINEAR}A_log",
    "blocks.*.attention.norm.": f"{LINEAR}norm.",
    "blocks.*.attention.o_proj.": f"{LINEAR}out_proj.",
}
SECTIONS = ("mrope_section", "mrope_interleaved")
"""Parts of RoPE for height and width: all positions of text are equal."""


def _read(json: Json) -> Json:
    count, every = json["num_hidden_layers"], json.get("full_attention_interval", 4)
    types = json.get("layer_types") or [
        "full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(count)
    ]
    if unknown := set(types) - set(TYPES):
        raise UserError(f"layer_types has {sorted(unknown)[0]!r}, expected linear_attention or full_attention")
    for key in ("rope_scaling", "rope_parameters"):
        if rope := json.get(key):
            json = json | {key: {name: value for name, value in rope.items() if name not in SECTIONS}}
    knobs: Json = {
        **read_decoder(json | {"rope_scaling": None, "rope_parameters": None}),
        **read_partial_rope(json, 0.25),
        "norm": "zero_centered_rmsnorm",
        "qk_norm": True,
        "attention_gate": True,
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "attention_pattern": tuple(TYPES[kind] for kind in types[:count]),
    }
    if "linear_attention" in types[:count]:
        knobs["gated_delta"] = {knob: json[key] for knob, key in LINEAR_KEYS.items()}
    return knobs


def _write(config: ModelConfig) -> Json:
    delta = config.gated_delta
    return write_decoder(config) | {
        "partial_rotary_factor": write_partial_rotary(config),
        "attention_bias": config.attention_bias != "none",
        "layer_types": write_layers(config),
        **({} if delta is None else {key: getattr(delta, knob) for knob, key in LINEAR_KEYS.items()}),
    }


def _read_moe(json: Json) -> Json:
    shared, size = json["shared_expert_intermediate_size"], json["moe_intermediate_size"]
    if shared % size or not shared:
        raise UserError(
            f"shared_expert_intermediate_size = {shared}, expected a multiple of moe_intermediate_size = {size}"
        )
    shared_experts = {"num_shared_experts": shared // size, "shared_expert_gate": True}
    return _read(json) | {"moe": read_experts(json) | shared_experts}


def _write_moe(config: ModelConfig) -> Json:
    assert config.moe
    shared = config.moe.num_shared_experts * config.moe.intermediate_size
    return _write(config) | {"shared_expert_intermediate_size": shared, **write_experts(config)}


def _rows(groups: int, *sizes: int) -> Tensor:
    """The order of rows where `groups` take their part of each of several matrices, of `sizes` rows, one after another."""
    starts = torch.tensor((0, *sizes[:-1])).cumsum(0).tolist()
    parts = [start + torch.arange(size).view(groups, -1) for start, size in zip(starts, sizes, strict=True)]
    return torch.cat(parts, dim=1).flatten()


def _map_gated_queries(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    """Queries and their gates: one matrix, by heads."""
    size = config.num_heads * config.head_dim
    order = _rows(config.num_heads, size, size)
    for name in names:
        gate = name.replace(".q_proj.", ".gate_proj.")
        foreign = name.replace("blocks.", "model.layers.").replace(".attention.", ".self_attn.")
        yield map_concatenated([name, gate], foreign, [size, size], order=order)


def _map_fused_delta(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    """Qwen3-Next's two fused matrices, by key heads; `names`: of qkv_proj."""
    if (delta := config.gated_delta) is None:
        return
    keys, values = delta.num_key_heads * delta.key_head_dim, delta.num_value_heads * delta.value_head_dim
    for name in names:
        gate, strength, step = (name.replace("qkv_proj", part) for part in ("gate_proj", "strength_proj", "step_proj"))
        layer = LINEAR.replace("*", name.split(".")[1])
        order = _rows(delta.num_key_heads, keys, keys, values, values)
        yield map_concatenated([name, gate], f"{layer}in_proj_qkvz.weight", [2 * keys + values, values], order=order)
        heads = delta.num_value_heads
        order = _rows(delta.num_key_heads, heads, heads)
        yield map_concatenated([strength, step], f"{layer}in_proj_ba.weight", [heads, heads], order=order)


def _weight_map(config: ModelConfig, names: Sequence[str], *, fused: bool = False) -> Iterator[TensorMap]:
    linear = [
        name for name in names if ".attention." in name and config.layer_types[int(name.split(".")[1])] == "linear"
    ]
    full = [name for name in names if name not in set(linear)]
    yield from _map_gated_queries(config, [name for name in full if ".attention.q_proj." in name])
    if fused:
        yield from _map_fused_delta(config, [name for name in linear if ".qkv_proj." in name])
        linear = [name for name in linear if not any(part in name for part in FUSED)]
    yield from map_names(linear, LINEAR_TENSORS)
    full = [name for name in full if not any(part in name for part in (".attention.q_proj.", ".attention.gate_proj."))]
    yield from experts_map(table=SHARED_EXPERTS)(config, full) if config.moe else map_names(full, TENSORS)


FUSED = (".qkv_proj.", ".gate_proj.", ".strength_proj.", ".step_proj.")
LINEAR_DEFAULTS: Json = {
    **DEFAULTS,
    "head_dim": 256,
    "layer_types": None,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
EXPERT_DEFAULTS: Json = {
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "norm_topk_prob": True,
    "mlp_only_layers": None,
    "decoder_sparse_step": 1,
}
QWEN3_NEXT = replace(
    LLAMA,
    name="qwen3_next",
    architecture="Qwen3NextForCausalLM",
    defaults={**LINEAR_DEFAULTS, **EXPERT_DEFAULTS, "num_key_value_heads": 2, "intermediate_size": 5632},
    moe=True,
    read=_read_moe,
    write=_write_moe,
    weight_map=lambda config, names: _weight_map(config, names, fused=True),
    ignored=(*LLAMA.ignored, "mtp.*"),
)
QWEN3_5_MOE = replace(
    QWEN3_NEXT,
    name="qwen3_5_moe_text",
    architecture="Qwen3_5MoeForCausalLM",
    defaults={
        **LINEAR_DEFAULTS,
        **EXPERT_DEFAULTS,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 8,
        "num_experts": 256,
        "intermediate_size": 5632,
    },
    fixed={"norm_topk_prob": True, "decoder_sparse_step": 1},
    weight_map=_weight_map,
)
QWEN3_5 = replace(
    LLAMA,
    name="qwen3_5_text",
    architecture="Qwen3_5ForCausalLM",
    defaults={**LINEAR_DEFAULTS, "num_key_value_heads": 4},
    read=_read,
    write=_write,
    weight_map=_weight_map,
    ignored=(*LLAMA.ignored, "mtp.*"),
)
