"""AWQ file format (AutoAWQ's layouts, read by transformers and vLLM): 4 bits, with zeros.

"gemm", which is written:

    qweight  int32 (in, out / 8)      codes, packed along the output, eight a word in INTERLEAVE_ORDER
    qzeros   int32 (groups, out / 8)  zeros, in the same order
    scales   float16 (groups, out)

"gemv": all three along the input, in their own order, the last two with columns of padding:

    qweight  int32 (out, in / 8);  qzeros  int32 (out, groups / 8 or more);  scales  float16 (out, groups or more)

Symmetric grids are written with an explicit zero in the middle.
"""

from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.bit_packing import pack_codes, unpack_codes
from groundup.quantize.formats.quantized_format import Json, QuantizedFormat, Tensors, as_weight, find_group_size
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight

INTERLEAVE_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Index of the output in the i-th four bits of a word, as AWQ's GPU kernel unpacks them."""


def _version(config: Json) -> str:
    return str(config.get("version") or config.get("checkpoint_format") or config.get("format") or "gemm").lower()


def check_config(config: Json) -> None:
    version, bits = _version(config), config.get("bits", config.get("w_bit", 4))
    if version not in ("gemm", "gemv") or bits != 4:
        raise UserError(f"AWQ with version = {version!r}, bits = {bits!r}; expected 'gemm' or 'gemv', and 4")


def weight_shape(tensors: Tensors, config: Json) -> tuple[int, int]:
    rows, words = tensors["qweight"].shape
    return (rows, words * 8) if _version(config) == "gemv" else (words * 8, rows)


def from_tensors(tensors: Tensors, config: Json, layer: str) -> QuantizedWeight:
    size = config.get("group_size", config.get("q_group_size"))
    if _version(config) == "gemv":
        codes = unpack_codes(tensors["qweight"], 4)
        width = codes.shape[1]
        if type(size) is not int or not 0 < size <= width:
            raise UserError(f"{layer}: AWQ gemv with group_size = {size!r}, expected 1 to {width}")
        groups = -(-width // size)
        zero, scale = unpack_codes(tensors["qzeros"], 4)[:, :groups], tensors["scales"][:, :groups]
        return as_weight(codes, scale, zero, 4, size, None)
    inverse = tuple(INTERLEAVE_ORDER.index(index) for index in range(8))
    codes, zero = (_interleave(unpack_codes(tensors[name], 4), inverse).T for name in ("qweight", "qzeros"))
    size = find_group_size(codes.shape[1], zero.shape[1], size)
    return as_weight(codes, tensors["scales"].T, zero, 4, size, None)


def to_tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "qweight": pack_codes(_interleave(weight.codes.T, INTERLEAVE_ORDER), 4, torch.int32),
        "qzeros": pack_codes(_interleave(weight.zero.T, INTERLEAVE_ORDER), 4, torch.int32),
        "scales": weight.scale.T.half().contiguous(),
    }


def _interleave(codes: Tensor, order: tuple[int, ...]) -> Tensor:
    """Reorder each eight elements of the last dimension."""
    if codes.shape[-1] % 8:
        raise UserError(f"output width {codes.shape[-1]}, expected a multiple of 8 for the AWQ format")
    return codes.unflatten(-1, (-1, 8))[..., list(order)].flatten(-2)


def to_config(scheme: QuantizationScheme, floats: list[str], permuted: bool) -> dict[str, Any]:
    if permuted:
        raise UserError("quantized with groups by g_idx, which the AWQ format has no form for", hint="use gptq")
    if scheme.bits != 4:
        raise UserError(
            f"quantized to {scheme.bits} bits, expected 4 for the AWQ format", hint="use gptq or compressed-tensors"
        )
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": scheme.group_size,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head", *floats],
    }


AWQ = QuantizedFormat("awq", ("qweight",), weight_shape, from_tensors, check_config, to_tensors, to_config)
