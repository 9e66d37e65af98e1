"""GGUF import: a model with unpacked weights, and its tokenizer."""

from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import first_validation_error
from groundup.interop.gguf.architectures import GGUF_ARCHITECTURES
from groundup.interop.gguf.architectures.gguf_architecture import KEYS, gguf_weight_map
from groundup.interop.gguf.gguf_metadata import read_metadata
from groundup.interop.gguf.gguf_rope import ROPE_FACTORS
from groundup.interop.gguf.gguf_tokenizer import read_tokenizer
from groundup.interop.gguf.split_gguf import SplitGGUFFile
from groundup.interop.weight_map import build_from_tensors
from groundup.model.serialization import resolve_dtype
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer


def load_gguf(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None
) -> tuple[nn.Module, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer of a .gguf file, or of the files of which it is the first.

    Quantized types (Q8_0, Q4_1, Q4_K, ...) are unpacked. `dtype` None: that of the matrices in the file (float32, float16 or
    bfloat16), and bfloat16 where they are quantized; float32 has their exact values.

    Raises UserError for a damaged file, an unsupported architecture or type, and weights that do not fit the metadata.

    >>> model, tokenizer = load_gguf(Path("model.gguf"))
    """
    source, config, tokenizer = open_gguf(Path(path), resolve_dtype(dtype))
    architecture = GGUF_ARCHITECTURES[source.metadata["general.architecture"]]
    build_weight_map = partial(gguf_weight_map, architecture)
    model = build_from_tensors(
        config, build_weight_map, source, ignored=(ROPE_FACTORS,), device=device, dtype=source.dtype
    )
    return model, tokenizer


def read_gguf(path: Path) -> tuple[ModelConfig, Tokenizer]:
    """The configuration of the model and the tokenizer of a .gguf file, without its weights. Raises as `load_gguf`."""
    _, config, tokenizer = open_gguf(path)
    return config, tokenizer


def open_gguf(path: Path, dtype: torch.dtype | None = None) -> tuple[SplitGGUFFile, ModelConfig, Tokenizer]:
    """The file or files, the configuration and the tokenizer; quantized tensors are read as `dtype`, see `load_gguf`."""
    source = SplitGGUFFile(path, dtype)
    try:
        factors = source.read(ROPE_FACTORS) if ROPE_FACTORS in source.shapes else None
        config = read_metadata(source.metadata, source.shapes, factors)
        tokenizer = _tokenizer(source)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", hint=error.hint) from None
    except ValidationError as error:
        raise UserError(f"{path}: {first_validation_error(error, KEYS)}") from None
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing, expected in the metadata") from None
    return source, config, tokenizer


def _tokenizer(source: SplitGGUFFile) -> Tokenizer:
    try:
        return read_tokenizer(source.metadata)
    except (UserError, KeyError):
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UserError(f"damaged vocabulary: {error}") from None
