"""GGUF export: a file for llama.cpp and programs built on it."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.fold_scales import fold_scales
from groundup.interop.gguf.architectures import GGUFArchitecture
from groundup.interop.gguf.architectures.gguf_architecture import gguf_weight_map
from groundup.interop.gguf.gguf_metadata import select_architecture, write_metadata
from groundup.interop.gguf.gguf_rope import ROPE_FACTORS, rope_factors
from groundup.interop.gguf.gguf_tokenizer import write_tokenizer
from groundup.interop.model_card import ModelCard, metadata_of_card
from groundup.interop.weight_map import convert_to_foreign, expected_shapes
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

GGUF_DTYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
FLOAT32 = ("ffn_gate_inp", "position_embd", "token_types", ".bias")
"""Matrices that llama.cpp adds or compares in float32."""

QUANTIZATION_VERSION = 2
"""GGML_QNT_VERSION."""


def export_gguf(
    model: nn.Module,
    tokenizer: Tokenizer,
    path: Path | str,
    dtype: str | torch.dtype = "float32",
    card: ModelCard | None = None,
) -> Path:
    """Write `model` and `tokenizer` as the file `path`, which is returned.

    Args:
        dtype: of the matrices: float32, float16, bfloat16, q8_0 or q4_0 (round to nearest). Vectors stay float32, and so do
            matrices with rows that are no multiple of the block size 32.
        card: name, licence and origin, as `general.name`, `general.license` and so on.

    Raises UserError for a model or tokenizer that llama.cpp does not support.

    >>> export_gguf(model, tokenizer, Path("model.gguf"), dtype="q8_0")
    """
    path, dtype = Path(path), str(dtype).removeprefix("torch.")
    architecture = check_gguf(model.config, dtype)  # type: ignore[arg-type]
    config, weights = fold_scales(model, family_scale=False)
    matrix_type, file_type = GGUF_DTYPES[dtype]
    weight_map = list(gguf_weight_map(architecture, config, list(weights)))

    metadata = {"general.type": "model", "general.file_type": int(file_type)}
    count = sum(weight.numel() for weight in weights.values())
    metadata |= {"general.size_label": gguf.size_label(count, count, 0, 0)} | metadata_of_card(card or {})
    metadata |= write_metadata(architecture, config) | write_tokenizer(tokenizer, config.vocab_size)
    if dtype.startswith("q"):
        metadata["general.quantization_version"] = QUANTIZATION_VERSION
    partial_file = path.with_name(f".{path.name}.partial")  # the model may be a view of the file at `path`
    writer = gguf.GGUFWriter(partial_file, architecture.name)
    for key, value in metadata.items():
        _add(writer, key, value)

    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, np.dtype(np.float32), factors.nbytes)
    types = {}
    for name, shape in expected_shapes(weight_map, weights).items():
        types[name] = _type_of(name, shape, matrix_type)
        # All infos precede the data, so that one converted tensor is in memory at a time.
        _add_tensor_info(writer, name, shape, types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    for name, tensor in convert_to_foreign(weight_map, weights):
        writer.write_tensor_data(gguf.quantize(tensor.float().cpu().numpy(), types[name]))
    writer.close()
    return partial_file.replace(path)


def _type_of(name: str, shape: tuple[int, ...], matrix_type: GGMLQuantizationType) -> GGMLQuantizationType:
    """float32 for vectors and what llama.cpp requires: MoE routers, tables of positions and token types."""
    block, _ = gguf.GGML_QUANT_SIZES[matrix_type]
    if len(shape) < 2 or any(part in name for part in FLOAT32) or shape[-1] % block:
        return GGMLQuantizationType.F32
    return matrix_type


def _add_tensor_info(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], type: GGMLQuantizationType) -> None:
    stored = np.dtype(np.float32) if type is GGMLQuantizationType.F32 else np.dtype(np.uint8)
    size = 4 * int(np.prod(shape))
    if type is not GGMLQuantizationType.F32:
        shape = quant_shape_to_byte_shape(shape, type)
        size = int(np.prod(shape))
    writer.add_tensor_info(name, shape, stored, size, raw_dtype=type)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a metadata entry, with the type that llama.cpp expects."""
    if key == "general.architecture":  # written by GGUFWriter itself
        return
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list() | bytes():
            writer.add_array(key, value)


def check_gguf(config: ModelConfig, dtype: str) -> GGUFArchitecture:
    """llama.cpp's architecture for the model. Raises UserError if there is none, or for an unknown dtype."""
    if dtype not in GGUF_DTYPES:
        raise UserError(f"dtype {dtype!r}, expected one of {', '.join(GGUF_DTYPES)} in a GGUF file")
    return select_architecture(config)
