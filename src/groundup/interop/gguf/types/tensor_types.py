"""The type of each tensor in a file of a given dtype: the mixes of llama.cpp.

A mix names a type for most matrices and more bits for those that suffer most from rounding: values of attention and the second
matrix of the feed-forward in an eighth of the layers at each end and every third between ("M"), or in the first ones ("S"), and
the output head with the embedding that it may share. Types that do not divide a row are replaced by one of blocks of 32.

Source: llama.cpp, src/llama-quant.cpp. It has other rules for Falcon, and counts the two stacks of T5 as one. A test compares the
types of all tensors with those of files that llama.cpp writes (tests/parity/test_interop_llama_cpp.py).
"""

import re
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

Kind = GGMLQuantizationType

FLOAT32 = ("ffn_gate_inp", "position_embd", "token_types", "attn_rel_b", ".bias")
"""Matrices that llama.cpp adds, compares or routes by in float32."""
SIMPLER = {
    Kind.Q2_K: Kind.Q4_0, Kind.Q3_K: Kind.Q4_0, Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0,
}  # fmt: skip
"""For rows that blocks of 256 do not divide."""
LAYER = re.compile(r"blk\.(\d+)\.")
VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
LARGE = 80
"""Layers of models of 70B, whose values are shared by many queries and get five bits at least."""


@dataclass(frozen=True)
class Mix:
    """Types of a file.

    Attributes:
        kind: of most matrices.
        file_type: `general.file_type`.
        others: of values, second feed-forward matrices and attention outputs; None: `kind`.
        better: of values and second matrices in some layers.
        at_ends: those of `has_more_bits`; else
        first_values, first_down: the first layers for values, and 1 / first_down of the layers for second matrices.
    """

    kind: Kind
    file_type: LlamaFileType
    others: Kind | None = None
    better: Kind | None = None
    at_ends: bool = False
    first_values: int = 0
    first_down: int = 0


MIXES = {
    "q8_0": Mix(Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q6_k": Mix(Kind.Q6_K, LlamaFileType.MOSTLY_Q6_K),
    "q5_k_m": Mix(Kind.Q5_K, LlamaFileType.MOSTLY_Q5_K_M, better=Kind.Q6_K, at_ends=True),
    "q5_k_s": Mix(Kind.Q5_K, LlamaFileType.MOSTLY_Q5_K_S),
    "q5_0": Mix(Kind.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q4_k_m": Mix(Kind.Q4_K, LlamaFileType.MOSTLY_Q4_K_M, better=Kind.Q6_K, at_ends=True),
    "q4_k_s": Mix(Kind.Q4_K, LlamaFileType.MOSTLY_Q4_K_S, better=Kind.Q5_K, first_values=4, first_down=8),
    "q4_0": Mix(Kind.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q3_k_m": Mix(Kind.Q3_K, LlamaFileType.MOSTLY_Q3_K_M, Kind.Q4_K, Kind.Q5_K, first_values=2, first_down=16),
    "q2_k": Mix(Kind.Q2_K, LlamaFileType.MOSTLY_Q2_K, Kind.Q3_K),
}
"""By the value of export.dtype."""


def has_more_bits(layer: int, num_layers: int) -> bool:
    """Whether a layer is in the first or the last eighth, or every third of the others."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


@dataclass(frozen=True)
class TensorTypes:
    """The rule of one file.

    Attributes:
        dtype: a name of MIXES.
        num_layers, num_experts: of the model.
        queries_per_value: query heads a key head.
        tied: the embedding is also the output head.
    """

    dtype: str
    num_layers: int
    num_experts: int
    queries_per_value: int
    tied: bool

    def type_of(self, name: str, shape: tuple[int, ...]) -> Kind:
        if len(shape) < 2 or any(part in name for part in FLOAT32):
            return Kind.F32
        kind = self._by_place(name, shape[-1])
        if shape[-1] % _block(kind):
            kind = SIMPLER.get(kind, kind)
        return Kind.F16 if shape[-1] % _block(kind) else kind

    def _by_place(self, name: str, width: int) -> Kind:
        mix, eight = MIXES[self.dtype], self.num_experts == 8
        found = LAYER.search(name)
        layer = int(found[1]) if found else 0
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return Kind.Q8_0 if mix.kind == Kind.Q8_0 or width % _block(mix.kind) else Kind.Q6_K
        if name.endswith(VALUES):
            return Kind.Q8_0 if eight else self._values(mix, layer)
        if eight and name.endswith("attn_k.weight"):
            return Kind.Q8_0
        if "ffn_down" in name:
            first = mix.first_down and layer < self.num_layers // mix.first_down
            return mix.better if mix.better and (first or self._at_ends(mix, layer)) else mix.others or mix.kind
        if name.endswith("attn_output.weight"):
            if eight and _block(mix.kind) == 256 and mix.kind not in (Kind.Q5_K, Kind.Q6_K):
                return Kind.Q5_K
            return mix.kind if eight else mix.others or mix.kind
        return mix.kind

    def _values(self, mix: Mix, layer: int) -> Kind:
        kind = mix.others or mix.kind
        if mix.kind == Kind.Q2_K and self.queries_per_value >= 4:
            kind = Kind.Q4_K
        if mix.better and (self._at_ends(mix, layer) or layer < mix.first_values):
            kind = mix.better
        return Kind.Q5_K if self.num_layers == LARGE and kind in (Kind.Q3_K, Kind.Q4_K) else kind

    def _at_ends(self, mix: Mix, layer: int) -> bool:
        return mix.at_ends and has_more_bits(layer, self.num_layers)


def _block(kind: Kind) -> int:
    return GGML_QUANT_SIZES[kind][0]
