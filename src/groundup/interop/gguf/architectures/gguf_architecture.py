"""The description of an architecture of llama.cpp: metadata keys and tensor names, mapped both ways."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.interop.row_order import map_interleaved
from groundup.interop.weight_map import TensorMap, map_concatenated, map_identical, map_names
from groundup.recipe import ModelConfig

Metadata = dict[str, Any]

SIZES = {
    "num_layers": "block_count",
    "context_length": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_heads": "attention.head_count",
}
RMS_EPSILON, EPSILON = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
GROUPED = {**SIZES, "num_kv_heads": "attention.head_count_kv"}
"""Sizes, with heads that are hidden_size / num_heads wide: llama.cpp derives the width in these architectures."""

KEYS = {**GROUPED, "head_dim": "attention.key_length", "norm_eps": RMS_EPSILON, "rope_theta": "rope.freq_base"}
REQUIRED = ("block_count", "context_length", "embedding_length", RMS_EPSILON, EPSILON)
"""Keys that llama.cpp has no default for."""

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
    "blocks.*.feed_forward.gate_proj.": "blk.*.ffn_gate.",
    "blocks.*.feed_forward.up_proj.": "blk.*.ffn_up.",
    "blocks.*.feed_forward.down_proj.": "blk.*.ffn_down.",
    "final_norm.": "output_norm.",
    "head.": "output.",
}
EXPERTS = {
    "blocks.*.feed_forward.router.": "blk.*.ffn_gate_inp.",
    "blocks.*.feed_forward.experts.gate_proj": "blk.*.ffn_gate_exps.weight",
    "blocks.*.feed_forward.experts.up_proj": "blk.*.ffn_up_exps.weight",
    "blocks.*.feed_forward.experts.down_proj": "blk.*.ffn_down_exps.weight",
}
QKV = ("q_proj", "k_proj", "v_proj")
HARMLESS = (
    "vocab_size",
    "tensor_data_layout",
    "pooling_type",
    "classifier.output_labels",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
)
"""Keys without effect on logits, or whose effect needs another key."""

NEUTRAL: Metadata = {
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.scale": 0.0,
    "embedding_scale": 0.0,
    "expert_count": 0,
    "expert_group_count": 0,
    "expert_group_used_count": 0,
    "expert_shared_count": 0,
    "expert_used_count": 0,
    "expert_weights_scale": 1.0,
    "leading_dense_block_count": 0,
    "logit_scale": 0.0,
    "nextn_predict_layers": 0,
    "residual_scale": 0.0,
    "rope.scaling.alpha": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}
"""Values with which a key, where no architecture reads it, is without effect."""


class GGUFFields:
    """The entries `NAME.key` of an architecture; entries that nobody asked for are refused by `check_all_read`."""

    def __init__(self, metadata: Metadata, name: str):
        self.name = name
        self._values = {key.removeprefix(f"{name}."): v for key, v in metadata.items() if key.startswith(f"{name}.")}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`. Raises UserError for a list of values that differ from layer to layer."""
        value = self.get_list(key, default)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            raise UserError(f"{self.name}.{key} = {shorten(value)}, expected one value for all layers")
        return value[0]

    def get_list(self, key: str, default: Any = None) -> Any:
        """The same, where a list is accepted."""
        self._read.add(key)
        value = self._values.get(key, default)
        return shortest_decimal(value)

    def require(self, key: str) -> Any:
        if key not in self._values:
            raise UserError(f"{self.name}.{key} is missing, expected in the metadata")
        return self.get(key)

    def expect(self, key: str, *values: Any) -> None:
        """Raises UserError if `key` is present with another value."""
        if key in self._values and self.get(key) not in values:
            expected = " or ".join(str(value) for value in values)
            raise UserError(f"{self.name}.{key} = {shorten(self.get(key))} is not supported, expected {expected}")

    def check_all_read(self) -> None:
        """Raises UserError for the first entry that has an effect and was not read."""
        for key, value in self._values.items():
            if key in self._read or key in HARMLESS or value in (NEUTRAL.get(key), None):
                continue
            raise UserError(
                f"{self.name}.{key} = {shorten(value)} is not supported: its effect on the model is unknown",
                hint="convert the model's Hugging Face folder instead, or report the key",
            )


@dataclass(frozen=True)
class GGUFArchitecture:
    """An architecture of llama.cpp.

    Attributes:
        name: `general.architecture`.
        families: Hugging Face families that it represents, by `model_type`.
        knobs: knobs of every model of the architecture, beyond the metadata.
        keys: our knobs and their names in the metadata, where the values are the same.
        tensors: our tensor names and those of the file, by prefix.
        interleaved: RoPE pairs are neighbouring elements of a head (Meta's original order), not halves: rows of query and key
            matrices are permuted.
        partial_rotation: llama.cpp can rotate the first elements of each head only (rope.dimension_count).
        untruncated_yarn: the model's yarn does not round the bounds of its ramp, and the file does not say so.
        fused: tensors that are one in the file, by its name: `{"attn_qkv": ("attention.q_proj", ...)}`.
        biases: tensors that may have a bias in llama.cpp; None: all.
        left_out: prefixes of our tensors that the file lacks.
        read: metadata and tensor names -> the knobs of ModelConfig beyond `keys`.
        write: ModelConfig -> the metadata beyond `keys`.
        adjust: the tensor maps, with those whose values differ in the file.
    """

    name: str
    families: tuple[str, ...]
    knobs: Metadata = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)
    tensors: Mapping[str, str] = field(default_factory=lambda: TENSORS)
    interleaved: bool = False
    partial_rotation: bool = False
    untruncated_yarn: bool = False
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    biases: tuple[str, ...] | None = ("attn_q", "attn_k", "attn_v")
    left_out: tuple[str, ...] = ()
    read: Callable[[GGUFFields, Collection[str], Metadata], Metadata] = lambda fields, tensors, knobs: {}
    write: Callable[[ModelConfig], Metadata] = lambda config: {}
    adjust: Callable[[ModelConfig, Iterable[TensorMap]], Iterable[TensorMap]] = lambda config, maps: maps


def gguf_weight_map(architecture: GGUFArchitecture, config: ModelConfig, names: Sequence[str]) -> Iterable[TensorMap]:
    """Maps of native tensors to those of the file. Raises UserError for a tensor that llama.cpp does not read."""
    return architecture.adjust(config, _map_by_name(architecture, config, names))


def _map_by_name(architecture: GGUFArchitecture, config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    parts = {part for fused in architecture.fused.values() for part in fused}
    for i in range(config.num_layers):
        for foreign, fused in architecture.fused.items():
            for kind in ("weight", "bias"):
                native = [f"blocks.{i}.{part}.{kind}" for part in fused]
                if native[0] in names:
                    sizes = [_rows(part, config) for part in fused]
                    yield map_concatenated(native, f"blk.{i}.{foreign}.{kind}", sizes)
    others = [n for n in names if not n.startswith(architecture.left_out or " ")]
    others = [n for n in others if ".".join(n.split(".")[2:-1]) not in parts]
    for tensor_map in map_names(others, architecture.tensors):
        native, foreign = tensor_map.native[0], tensor_map.foreign[0]
        part = native.rsplit(".", 2)[-2]
        allowed = architecture.biases
        if foreign.endswith(".bias") and allowed is not None and foreign.rsplit(".", 2)[-2] not in allowed:
            raise UserError(f"tensor {foreign}: llama.cpp has no such bias in the architecture {architecture.name}")
        if architecture.interleaved and part in ("q_proj", "k_proj"):
            heads = config.num_heads if part == "q_proj" else config.num_kv_heads
            yield map_interleaved(native, foreign, heads, config.head_dim, config.rotary_dim)
        elif part == "gate" and foreign.endswith("ffn_gate_inp_shexp.weight"):
            yield TensorMap((native,), (foreign,), lambda t: [t[0][None]], lambda t: [t[0][0]])
        elif config.norm == "zero_centered_rmsnorm" and part.endswith("norm"):
            yield map_offset(native, foreign)
        else:
            yield tensor_map


def _rows(part: str, config: ModelConfig) -> int:
    part = part.rsplit(".", 1)[-1]
    if part in QKV:
        return config.head_dim * (config.num_heads if part == "q_proj" else config.num_kv_heads)
    return config.intermediate_size


def map_offset(native: str, foreign: str) -> TensorMap:
    """A norm's weight: offset from 1 (native); the factor itself (foreign)."""
    same = map_identical(native, foreign)
    return TensorMap(
        same.native, same.foreign, lambda tensors: [tensors[0].float() - 1], lambda tensors: [tensors[0].float() + 1]
    )


def shortest_decimal(value: Any) -> Any:
    """A float32 as its shortest decimal: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
