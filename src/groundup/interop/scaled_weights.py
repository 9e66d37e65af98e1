"""Weights stored in float8 or MXFP4 with scales, read as floating point: one tensor at a time.

    MXFP4 (gpt-oss)              NAME_blocks, NAME_scales       32 values of four bits share a power of two
    float8 in blocks (DeepSeek)  weight, weight_scale_inv       a block of 128 x 128 values shares a scale
    float8                       weight, weight_scale           a tensor, or each of its rows, has a scale

The value is the product of the stored number and its scale in all of them, whatever "inv" in a name says. Scales of
activations and of key/value caches are left out.

Sources: Open Compute Project 2023, "OCP Microscaling Formats (MX) Specification", sections 5.3 and 6.3; DeepSeek-AI 2024,
"DeepSeek-V3 Technical Report", section 3.3.2.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource

FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Of E2M1: sign, two bits of exponent, one of mantissa."""
EXPONENT_BIAS = 127
"""A scale in E8M0 is 2^(byte - 127)."""
SCALE_SUFFIXES = ("_scale_inv", "_scale")
UNUSED = (".input_scale", ".activation_scale", ".k_scale", ".v_scale")


def is_scaled(fields: dict[str, Any]) -> bool:
    """Whether a config.json describes float8 or MXFP4 weights, which are read as floating point."""
    described = fields.get("quantization_config")
    if not isinstance(described, dict):
        return False
    method = described.get("quant_method")
    if method == "compressed-tensors":
        groups = described.get("config_groups")
        kinds = (
            {(group.get("weights") or {}).get("type") for group in groups.values()}
            if isinstance(groups, dict)
            else set()
        )
        naive = described.get("format") == "naive-quantized" and kinds == {"float"}
        return naive or described.get("format") == "float-quantized"
    return method in ("mxfp4", "fp8", "fbgemm_fp8") or (method == "modelopt" and described.get("quant_algo") == "FP8")


def scaled_source(source: TensorSource, fields: dict[str, Any], dtype: torch.dtype | None) -> TensorSource:
    """`source` with each weight multiplied by its scales, in `dtype`; None: bfloat16."""
    described = fields["quantization_config"]
    if described.get("quant_method") == "mxfp4":
        return Mxfp4Source(source, dtype or torch.bfloat16)
    return Float8Source(source, dtype or torch.bfloat16, described.get("weight_block_size"))


class Float8Source:
    """float8 weights with a scale for the tensor, for each row, or for each block."""

    def __init__(self, source: TensorSource, dtype: torch.dtype, block_size: list[int] | None = None):
        self.path: Path = source.path
        self._source, self._dtype, self._block_size = source, dtype, block_size
        self._scales = {
            name.removesuffix(suffix): name
            for suffix in SCALE_SUFFIXES
            for name in source.shapes
            if name.endswith(suffix) and name.removesuffix(suffix) in source.shapes
        }
        scales = set(self._scales.values())
        self.shapes = {
            name: shape for name, shape in source.shapes.items() if name not in scales and not name.endswith(UNUSED)
        }

    def read(self, name: str) -> Tensor:
        values = self._source.read(name)
        if name in self._scales:
            scales = decode_scales(self._source.read(self._scales[name]))
            return multiply_blocks(values, scales, self._block_size, f"{self.path}: {name}").to(self._dtype)
        if values.is_floating_point() and values.element_size() == 1:
            raise UserError(f"{self.path}: tensor {name} is {values.dtype} without {name}_scale or {name}_scale_inv")
        return values


def decode_scales(scales: Tensor) -> Tensor:
    """Scales in float32; bytes are exponents."""
    if scales.dtype == torch.uint8:
        return torch.exp2(scales.float() - EXPONENT_BIAS)
    return scales.float()


def multiply_blocks(values: Tensor, scales: Tensor, block_size: list[int] | None, name: str) -> Tensor:
    """Float32 product of `values` (out in) and the scale of their tensor, row or block; blocks at the edge may be smaller."""
    values = values.float()
    if scales.numel() == 1:
        return values * scales.reshape(())
    if scales.ndim == 1 and len(scales) == len(values):
        scales = scales[:, None]
    if scales.ndim != 2 or values.ndim != 2:
        raise UserError(
            f"{name} has shape {list(values.shape)} and scales of shape {list(scales.shape)}, expected a grid"
        )
    row_wise = scales.shape == (len(values), 1)
    sizes = (
        (1, values.shape[1])
        if row_wise
        else block_size or [-(-n // s) for n, s in zip(values.shape, scales.shape, strict=True)]
    )
    expected = tuple(-(-n // size) for n, size in zip(values.shape, sizes, strict=True))
    if tuple(scales.shape) != expected:
        raise UserError(f"{name} has scales of shape {list(scales.shape)}, expected {list(expected)}")
    grid = scales.repeat_interleave(sizes[0], 0)[: len(values)].repeat_interleave(sizes[1], 1)[:, : values.shape[1]]
    return values * grid


class Mxfp4Source:
    """MXFP4 matrices of experts: NAME_blocks (E out in/32 16) and NAME_scales (E out in/32) are NAME (E in out)."""

    def __init__(self, source: TensorSource, dtype: torch.dtype):
        self.path: Path = source.path
        self._source, self._dtype = source, dtype
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in source.shapes.items():
            stem = name.removesuffix("_blocks")
            if stem != name and f"{stem}_scales" in source.shapes:
                self.shapes[stem] = (shape[0], shape[2] * shape[3] * 2, shape[1])
            elif not (name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in source.shapes):
                self.shapes[name] = shape

    def read(self, name: str) -> Tensor:
        if name in self._source.shapes:
            return self._source.read(name)
        blocks, scales = self._source.read(f"{name}_blocks"), self._source.read(f"{name}_scales")
        matrices = torch.empty(self.shapes[name], dtype=self._dtype)
        for matrix, *stored in zip(matrices, blocks, scales, strict=True):  # one expert at a time: little memory
            matrix.copy_(decode_mxfp4(*stored).T)
        return matrices


def decode_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Float32 values (... 32 n) of packed pairs (... n 16), the lower half of a byte first, and exponents (... n)."""
    values = torch.tensor(FP4_VALUES)
    pairs = torch.stack((values[(blocks & 0xF).long()], values[(blocks >> 4).long()]), dim=-1)
    return torch.ldexp(pairs.flatten(-2), scales.int()[..., None] - EXPONENT_BIAS).flatten(-2)
