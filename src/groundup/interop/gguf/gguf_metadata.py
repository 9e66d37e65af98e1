"""GGUF metadata and tensor names of the supported architectures, in both directions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.families.select_family import config_differences, select_family
from groundup.interop.row_order import map_interleaved
from groundup.interop.weight_map import TensorMap, map_names
from groundup.model.rope import RotaryEmbedding, rope_frequencies
from groundup.recipe import ModelConfig

Metadata = dict[str, Any]


@dataclass(frozen=True)
class GGUFArchitecture:
    """An architecture of llama.cpp.

    Attributes:
        name: `general.architecture`.
        knobs: knobs of every model of the architecture, beyond the metadata.
        interleaved: RoPE pairs are neighbouring elements of a head (Meta's original order), not halves: rows of query and key
            matrices are permuted.
    """

    name: str
    knobs: Mapping[str, Any]
    interleaved: bool = False


GGUF_ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        GGUFArchitecture("llama", {}, interleaved=True),
        GGUFArchitecture("qwen2", {}),
        GGUFArchitecture("qwen3", {"qk_norm": True}),
        GGUFArchitecture("qwen3moe", {"qk_norm": True}),
    )
}
ARCHITECTURE_BY_FAMILY = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
}
"""llama.cpp's architecture by Hugging Face family."""

KEYS = {
    "num_layers": "block_count",
    "context_length": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
}
TENSORS = {
    "embedding.tokens.": "token_embd.",
    "blocks.*.attention_norm.": "blk.*.attn_norm.",
    "blocks.*.attention.q_proj.": "blk.*.attn_q.",
    "blocks.*.attention.k_proj.": "blk.*.attn_k.",
    "blocks.*.attention.v_proj.": "blk.*.attn_v.",
    "blocks.*.attention.o_proj.": "blk.*.attn_output.",
    "blocks.*.attention.q_norm.": "blk.*.attn_q_norm.",
    "blocks.*.attention.k_norm.": "blk.*.attn_k_norm.",
    "blocks.*.feed_forward_norm.": "blk.*.ffn_norm.",
    "blocks.*.feed_forward.router.": "blk.*.ffn_gate_inp.",
    "blocks.*.feed_forward.experts.gate_proj": "blk.*.ffn_gate_exps.weight",
    "blocks.*.feed_forward.experts.up_proj": "blk.*.ffn_up_exps.weight",
    "blocks.*.feed_forward.experts.down_proj": "blk.*.ffn_down_exps.weight",
    "blocks.*.feed_forward.gate_proj.": "blk.*.ffn_gate.",
    "blocks.*.feed_forward.up_proj.": "blk.*.ffn_up.",
    "blocks.*.feed_forward.down_proj.": "blk.*.ffn_down.",
    "final_norm.": "output_norm.",
    "head.": "output.",
}
ROPE_FACTORS = "rope_freqs.weight"
"""Not a weight: the factor by which Llama 3.1's scaling divides the frequency of each pair."""


def gguf_weight_map(architecture: GGUFArchitecture, config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    """Maps of native tensors to those of the file."""
    for tensor_map in map_names(names, TENSORS):
        part = tensor_map.native[0].rsplit(".", 2)[-2]
        if architecture.interleaved and part in ("q_proj", "k_proj"):
            heads = config.num_heads if part == "q_proj" else config.num_kv_heads
            yield map_interleaved(tensor_map.native[0], tensor_map.foreign[0], heads, config.head_dim)
        else:
            yield tensor_map


def select_architecture(config: ModelConfig) -> GGUFArchitecture:
    """llama.cpp's architecture for `config`. Raises UserError if there is none, or if its metadata lack a knob."""
    family = select_family(config).name
    if family not in ARCHITECTURE_BY_FAMILY:
        raise UserError(
            f"a {family} model cannot be exported as GGUF, expected one of {', '.join(ARCHITECTURE_BY_FAMILY)}",
            hint="use the huggingface format",
        )
    architecture = GGUF_ARCHITECTURES[ARCHITECTURE_BY_FAMILY[family]]
    metadata = write_metadata(architecture, config)
    if lost := config_differences(config, read_metadata(metadata, optional_tensors(config), rope_factors(config))):
        raise UserError(f"the model cannot be exported as GGUF ({architecture.name}): {'; '.join(lost)}")
    return architecture


def read_metadata(metadata: Metadata, tensors: Iterable[str], factors: torch.Tensor | None = None) -> ModelConfig:
    """The configuration of `metadata`, tensor names and RoPE factors. Raises UserError for an unknown architecture."""
    name = metadata.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        raise UserError(
            f"general.architecture = {name!r} is not supported, expected one of {', '.join(GGUF_ARCHITECTURES)}"
        )
    fields = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    tensors = set(tensors)
    knobs: Metadata = {knob: _shortest_decimal(fields[key]) for knob, key in KEYS.items() if key in fields}
    knobs.setdefault("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    knobs |= GGUF_ARCHITECTURES[name].knobs
    knobs["tie_embeddings"] = "output.weight" not in tensors
    biases = ("all" if "blk.0.attn_output.bias" in tensors else "qkv") if "blk.0.attn_q.bias" in tensors else "none"
    knobs["attention_bias"] = biases
    knobs["feed_forward_bias"] = "blk.0.ffn_down.bias" in tensors
    knobs["rope_scaling"] = _read_scaling(fields, factors, knobs)
    if fields.get("expert_count"):
        knobs["moe"] = {
            "num_experts": fields["expert_count"],
            "experts_per_token": fields["expert_used_count"],
            "intermediate_size": fields.get("expert_feed_forward_length"),
        }
    config = ModelConfig.model_validate(knobs)
    if fields.get("rope.dimension_count", config.head_dim) != config.head_dim:
        rotated = fields["rope.dimension_count"]
        raise UserError(f"rope.dimension_count = {rotated}, expected the head dimension, {config.head_dim}")
    return config


def write_metadata(architecture: GGUFArchitecture, config: ModelConfig) -> Metadata:
    """The metadata of `config` under `architecture.name`; integers are int, others float."""
    fields: Metadata = {key: getattr(config, knob) for knob, key in KEYS.items()}
    fields["attention.value_length"] = fields["rope.dimension_count"] = config.head_dim
    if config.moe is not None:
        fields["expert_count"] = config.moe.num_experts
        fields["expert_used_count"] = config.moe.experts_per_token
        fields["expert_feed_forward_length"] = config.moe.intermediate_size
    scaling = config.rope_scaling
    if scaling is not None and scaling.method in ("linear", "yarn"):
        fields["rope.scaling.type"] = scaling.method
        fields["rope.scaling.factor"] = scaling.factor
    if scaling is not None and scaling.method == "yarn":
        fields["rope.scaling.original_context_length"] = scaling.original_context_length or config.context_length
    named = {f"{architecture.name}.{key}": value for key, value in fields.items()}
    return {"general.architecture": architecture.name} | named


def optional_tensors(config: ModelConfig) -> list[str]:
    """Foreign names of the optional tensors (biases, head) of a model."""
    names = [] if config.tie_embeddings else ["output.weight"]
    names += ["blk.0.attn_q.bias"] if config.attention_bias != "none" else []
    names += ["blk.0.attn_output.bias"] if config.attention_bias == "all" else []
    return names + (["blk.0.ffn_down.bias"] if config.feed_forward_bias else [])


def rope_factors(config: ModelConfig) -> torch.Tensor | None:
    """`rope_freqs.weight` of a model with Llama 3.1's RoPE scaling; None for others."""
    if config.rope_scaling is None or config.rope_scaling.method != "llama3":
        return None
    scaled = RotaryEmbedding(config.head_dim, config.rope_theta, config.context_length, config.rope_scaling)
    return rope_frequencies(config.head_dim, config.rope_theta) / scaled.compute_frequencies()


def _read_scaling(fields: Metadata, factors: torch.Tensor | None, knobs: Metadata) -> Metadata | None:
    if factors is not None:
        return _infer_llama3_scaling(factors, knobs)
    method = fields.get("rope.scaling.type", "none")
    if method == "none" or fields.get("rope.scaling.factor", 1.0) == 1.0:
        return None
    if method not in ("linear", "yarn"):
        raise UserError(f"rope.scaling.type = {method!r} is not supported, expected one of none, linear, yarn")
    scaling: Metadata = {"method": method, "factor": _shortest_decimal(fields["rope.scaling.factor"])}
    if method == "yarn":
        scaling["original_context_length"] = fields.get("rope.scaling.original_context_length", knobs["context_length"])
    return scaling


def _infer_llama3_scaling(factors: torch.Tensor, knobs: Metadata) -> Metadata:
    """The Llama 3.1 scaling that produces these factors, the only trace of it in the file.

    The slowest pair has the scaling factor. The two bounds are 1 and 4 in every such model, and the original length is a power
    of two.
    """
    factor = round(factors.max().item(), 4)
    for exponent in range(24):
        scaling = {"method": "llama3", "factor": factor, "original_context_length": 2**exponent}
        candidate = rope_factors(ModelConfig(**{**knobs, "rope_scaling": scaling}))
        if candidate is not None and candidate.shape == factors.shape and torch.allclose(candidate, factors, rtol=1e-4):
            return scaling
    raise UserError(
        f"{ROPE_FACTORS}: {len(factors)} factors up to {factor:g} do not result from Llama 3.1's RoPE scaling "
        f"for rope.freq_base = {knobs.get('rope_theta')}"
    )


def _shortest_decimal(value: Any) -> Any:
    """A float32 as its shortest decimal: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
