"""GGUF export: a file for llama.cpp and programs built on it, written one part of a tensor at a time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.interop.fold_scales import fold_scales
from groundup.interop.gguf.architectures import GGUFArchitecture
from groundup.interop.gguf.architectures.gguf_architecture import gguf_weight_map
from groundup.interop.gguf.gguf_metadata import select_architecture, write_metadata
from groundup.interop.gguf.gguf_rope import ROPE_FACTORS, rope_factors
from groundup.interop.gguf.gguf_tokenizer import write_tokenizer
from groundup.interop.gguf.importance_matrix import Importance
from groundup.interop.gguf.types.block_rounding import quantize_rows
from groundup.interop.gguf.types.gguf_blocks import BLOCK_TYPES
from groundup.interop.gguf.types.tensor_types import FLOAT32, MIXES, TensorTypes
from groundup.interop.model_card import ModelCard, metadata_of_card
from groundup.interop.weight_map import expected_shapes
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

FLOAT_DTYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32, torch.float32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16, torch.float16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16, torch.bfloat16),
}
GGUF_DTYPES = (*FLOAT_DTYPES, *MIXES)

QUANTIZATION_VERSION = 2
"""GGML_QNT_VERSION."""
ALIGNMENT = 32
PART_VALUES = 1 << 22
"""Values converted and written at a time."""


def export_gguf(
    model: nn.Module,
    tokenizer: Tokenizer,
    path: Path | str,
    dtype: str | torch.dtype = "float32",
    card: ModelCard | None = None,
    importance: Importance | None = None,
) -> Path:
    """Write `model` and `tokenizer` as the file `path`, which is returned.

    Args:
        dtype: of the matrices: float32, float16, bfloat16, or a mix of packed types: see tensor_types.py. Vectors stay
            float32, and rows that no block divides float16.
        card: name, licence and origin, as `general.name`, `general.license` and so on.
        importance: by which packed types weight errors of columns; see `measure_importance`.

    Raises UserError for a model or tokenizer that llama.cpp does not support.

    >>> export_gguf(model, tokenizer, Path("model.gguf"), dtype="q4_k_m", importance=measure_importance(model, windows))
    """
    path, dtype = Path(path), str(dtype).removeprefix("torch.")
    architecture = check_gguf(model.config, dtype)  # type: ignore[arg-type]
    config, weights = fold_scales(model, family_scale=False)
    weight_map = list(gguf_weight_map(architecture, config, list(weights)))
    shapes = expected_shapes(weight_map, weights)

    file_type = FLOAT_DTYPES[dtype][1] if dtype in FLOAT_DTYPES else MIXES[dtype].file_type
    metadata = {"general.type": "model", "general.file_type": int(file_type)}
    count = sum(weight.numel() for weight in weights.values())
    metadata |= {"general.size_label": gguf.size_label(count, count, 0, 0)} | metadata_of_card(card or {})
    metadata |= write_metadata(architecture, config) | write_tokenizer(tokenizer, config.vocab_size)
    if dtype in MIXES:
        metadata["general.quantization_version"] = QUANTIZATION_VERSION
    types = tensor_types(config, dtype, shapes)
    factors = rope_factors(config)
    partial_file = path.with_name(f".{path.name}.partial")  # the model may be a view of the file at `path`
    try:
        _write_header(partial_file, architecture.name, metadata, shapes, types, factors)
        with partial_file.open("ab") as file:
            if factors is not None:
                _write_parts(file, iter([factors.numpy()]))
            for tensor_map in weight_map:
                columns = None if importance is None else importance.get(tensor_map.native[0])
                if len(tensor_map.foreign) > 1:  # cut or transposed: other columns
                    columns = None
                converted = tensor_map.to_foreign([weights[name].detach() for name in tensor_map.native])
                for name, tensor in zip(tensor_map.foreign, converted, strict=True):
                    _write_parts(file, _parts(tensor, types[name], columns))
            file.flush()
            os.fsync(file.fileno())
        return partial_file.replace(path)
    finally:
        partial_file.unlink(missing_ok=True)


def tensor_types(
    config: ModelConfig, dtype: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, GGMLQuantizationType]:
    """The type of each tensor of a file of `dtype`, by its name."""
    if dtype in FLOAT_DTYPES:
        kind, f32 = FLOAT_DTYPES[dtype][0], GGMLQuantizationType.F32
        return {n: f32 if len(s) < 2 or any(part in n for part in FLOAT32) else kind for n, s in shapes.items()}
    experts = config.moe.num_experts if config.moe else 0
    queries, tied = config.num_heads // (config.num_kv_heads or config.num_heads), "output.weight" not in shapes
    rule = TensorTypes(dtype, config.num_layers, experts, queries, tied)
    return {name: rule.type_of(name, shape) for name, shape in shapes.items()}


def _write_header(
    path: Path,
    architecture: str,
    metadata: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    types: dict[str, GGMLQuantizationType],
    factors: Tensor | None,
) -> None:
    """Everything before the data."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, np.dtype(np.float32), factors.nbytes)
    for name, shape in shapes.items():
        _add_tensor_info(writer, name, shape, types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _write_parts(file: Any, parts: Iterator[np.ndarray]) -> None:
    """The data of one tensor, at the next multiple of the alignment."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    for part in parts:
        part.tofile(file)
    file.write(bytes(-file.tell() % ALIGNMENT))


def _parts(tensor: Tensor, kind: GGMLQuantizationType, columns: Tensor | None) -> Iterator[np.ndarray]:
    """The tensor as `kind`, a number of rows at a time. `columns`: importance (1 or experts, inputs)."""
    if tensor.dim() < 2:
        yield tensor.float().cpu().numpy()
        return
    matrices = tensor if tensor.dim() > 2 and columns is not None and len(columns) == len(tensor) else tensor[None]
    for index, matrix in enumerate(matrices):
        rows = matrix.reshape(-1, tensor.shape[-1])
        weights = None if columns is None or columns.shape[-1] != rows.shape[1] else columns[index : index + 1]
        step = max(1, PART_VALUES // rows.shape[1])
        for begin in range(0, len(rows), step):
            yield _convert(rows[begin : begin + step], kind, weights)


def _convert(rows: Tensor, kind: GGMLQuantizationType, importance: Tensor | None) -> np.ndarray:
    if kind in BLOCK_TYPES:
        return quantize_rows(rows.cpu(), BLOCK_TYPES[kind], importance).numpy()
    dtype = next(dtype for each, _, dtype in FLOAT_DTYPES.values() if each == kind)
    return rows.to("cpu", dtype).contiguous().view(torch.uint8).numpy()


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
