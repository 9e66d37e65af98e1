"""What the metadata and the tensor names of a GGUF file mean, in both directions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.families.select_family import config_differences, select_family
from groundup.interop.weight_map import TensorMap, map_names
from groundup.model.rope import RotaryEmbedding, rope_frequencies
from groundup.recipe import ModelConfig

Metadata = dict[str, Any]


@dataclass(frozen=True)
class GGUFArchitecture:
    """A kind of model that llama.cpp knows.

    Attributes:
        name: `general.architecture`.
        knobs: what every model of the kind has, beyond what the metadata say.
        interleaved: it turns neighbouring numbers of a head, where we turn halves: rows of queries and keys
            change places on the way (Meta's original order of Llama; the conversion scripts call it permute).
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
"""How llama.cpp calls the families of Hugging Face."""

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
"""Not a weight: by how much each pair of a head turns slower, for Llama 3.1's rule."""


def gguf_weight_map(
    architecture: GGUFArchitecture, config: ModelConfig, names: Sequence[str]
) -> Iterator[TensorMap]:
    """Our tensors beside those of the file."""
    for pair in map_names(names, TENSORS):
        part = pair.native[0].rsplit(".", 2)[-2]
        if architecture.interleaved and part in ("q_proj", "k_proj"):
            heads = config.num_heads if part == "q_proj" else config.num_kv_heads
            yield map_interleaved(pair.native[0], pair.foreign[0], heads)
        else:
            yield pair


def map_interleaved(native: str, foreign: str, heads: int) -> TensorMap:
    """Rows of each head in the order first half, second half here; in pairs, one of each half, there."""

    def to_native(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        rows = tensors[0].shape[0] // heads
        return [tensors[0].unflatten(0, (heads, rows // 2, 2)).transpose(1, 2).reshape(tensors[0].shape)]

    def to_foreign(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        rows = tensors[0].shape[0] // heads
        return [tensors[0].unflatten(0, (heads, 2, rows // 2)).transpose(1, 2).reshape(tensors[0].shape)]

    return TensorMap((native,), (foreign,), to_native, to_foreign)


def select_architecture(config: ModelConfig) -> GGUFArchitecture:
    """The kind of model that llama.cpp would see in `config`.

    Raises UserError for a family without one here, and for knobs that its metadata cannot say.
    """
    family = select_family(config).name
    if family not in ARCHITECTURE_BY_FAMILY:
        raise UserError(
            f"a {family} model cannot be written as GGUF, expected one of {', '.join(ARCHITECTURE_BY_FAMILY)}",
            hint="the huggingface format holds it",
        )
    architecture = GGUF_ARCHITECTURES[ARCHITECTURE_BY_FAMILY[family]]
    metadata = write_metadata(architecture, config)
    if lost := config_differences(
        config, read_metadata(metadata, optional_tensors(config), rope_factors(config))
    ):
        raise UserError(f"GGUF cannot say {', '.join(lost)} of a {architecture.name} model")
    return architecture


def read_metadata(
    metadata: Metadata, tensors: Iterable[str], factors: torch.Tensor | None = None
) -> ModelConfig:
    """The configuration that `metadata` (key -> value), the tensors' names and the RoPE factors describe.

    Raises UserError for an architecture that we do not know, with the list of those we do.
    """
    name = metadata.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        raise UserError(
            f"general.architecture = {name!r} is not supported, expected one of {', '.join(GGUF_ARCHITECTURES)}"
        )
    own = {
        key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")
    }
    tensors = set(tensors)
    knobs: Metadata = {knob: _shortest_decimal(own[key]) for knob, key in KEYS.items() if key in own}
    knobs.setdefault("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    knobs |= GGUF_ARCHITECTURES[name].knobs
    knobs["tie_embeddings"] = "output.weight" not in tensors
    biases = (
        ("all" if "blk.0.attn_output.bias" in tensors else "qkv")
        if "blk.0.attn_q.bias" in tensors
        else "none"
    )
    knobs["attention_bias"] = biases
    knobs["feed_forward_bias"] = "blk.0.ffn_down.bias" in tensors
    knobs["rope_scaling"] = _read_scaling(own, factors, knobs)
    if own.get("expert_count"):
        knobs["moe"] = {
            "num_experts": own["expert_count"],
            "experts_per_token": own["expert_used_count"],
            "intermediate_size": own.get("expert_feed_forward_length", 0),
        }
    config = ModelConfig(**knobs)
    if own.get("rope.dimension_count", config.head_dim) != config.head_dim:
        turned = own["rope.dimension_count"]
        raise UserError(f"rope.dimension_count = {turned}, expected the width of a head, {config.head_dim}")
    return config


def write_metadata(architecture: GGUFArchitecture, config: ModelConfig) -> Metadata:
    """The metadata under `architecture.name` that describe `config`; whole numbers are int, others float."""
    own: Metadata = {key: getattr(config, knob) for knob, key in KEYS.items()}
    own["attention.value_length"] = own["rope.dimension_count"] = config.head_dim
    if config.moe is not None:
        own["expert_count"] = config.moe.num_experts
        own["expert_used_count"] = config.moe.experts_per_token
        own["expert_feed_forward_length"] = config.moe.intermediate_size
    scaling = config.rope_scaling
    if scaling is not None and scaling.method in ("linear", "yarn"):
        own["rope.scaling.type"] = scaling.method
        own["rope.scaling.factor"] = scaling.factor
    if scaling is not None and scaling.method == "yarn":
        own["rope.scaling.original_context_length"] = scaling.original_context_length or config.context_length
    named = {f"{architecture.name}.{key}": value for key, value in own.items()}
    return {"general.architecture": architecture.name} | named


def optional_tensors(config: ModelConfig) -> list[str]:
    """Names of the tensors that say which biases and heads a model has."""
    names = [] if config.tie_embeddings else ["output.weight"]
    names += ["blk.0.attn_q.bias"] if config.attention_bias != "none" else []
    names += ["blk.0.attn_output.bias"] if config.attention_bias == "all" else []
    return names + (["blk.0.ffn_down.bias"] if config.feed_forward_bias else [])


def rope_factors(config: ModelConfig) -> torch.Tensor | None:
    """What `rope_freqs.weight` holds for a model with Llama 3.1's rule; None for others."""
    if config.rope_scaling is None or config.rope_scaling.method != "llama3":
        return None
    scaled = RotaryEmbedding(config.head_dim, config.rope_theta, config.context_length, config.rope_scaling)
    return rope_frequencies(config.head_dim, config.rope_theta) / scaled.compute_frequencies()


def _read_scaling(own: Metadata, factors: torch.Tensor | None, knobs: Metadata) -> Metadata | None:
    if factors is not None:
        return _infer_llama3_scaling(factors, knobs)
    method = own.get("rope.scaling.type", "none")
    if method == "none" or own.get("rope.scaling.factor", 1.0) == 1.0:
        return None
    if method not in ("linear", "yarn"):
        raise UserError(
            f"rope.scaling.type = {method!r} is not supported, expected one of none, linear, yarn"
        )
    scaling: Metadata = {"method": method, "factor": _shortest_decimal(own["rope.scaling.factor"])}
    if method == "yarn":
        scaling["original_context_length"] = own.get(
            "rope.scaling.original_context_length", knobs["context_length"]
        )
    return scaling


def _infer_llama3_scaling(factors: torch.Tensor, knobs: Metadata) -> Metadata:
    """The rule that gives these factors: the file keeps only what came out of it.

    The slowest pair tells the factor. The other two bounds are 1 and 4 in every model with this rule, and the
    original length is a power of two.
    """
    factor = round(factors.max().item(), 4)
    for exponent in range(24):
        scaling = {"method": "llama3", "factor": factor, "original_context_length": 2**exponent}
        given = rope_factors(ModelConfig(**{**knobs, "rope_scaling": scaling}))
        if given is not None and given.shape == factors.shape and torch.allclose(given, factors, rtol=1e-4):
            return scaling
    raise UserError(
        f"{ROPE_FACTORS}: {len(factors)} factors up to {factor:g} do not come from Llama 3.1's rule "
        f"for rope.freq_base = {knobs.get('rope_theta')}"
    )


def _shortest_decimal(value: Any) -> Any:
    """A float32 as the decimal that was meant: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
