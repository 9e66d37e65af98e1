"""Whatever a path holds: quantized models of ours and of others here, everything else through interop."""

from pathlib import Path

import torch
from torch import nn

from groundup import interop
from groundup.artifacts.errors import UserError
from groundup.interop.huggingface_model import CONFIG_FILE, read_config
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.huggingface_folder import (
    export_huggingface_quantized,
    load_huggingface_quantized,
)
from groundup.quantize.int4_cpu import use_int4_kernel
from groundup.quantize.quantized_folder import QUANTIZATION, load_quantized_folder
from groundup.quantize.quantizer import dequantize_model
from groundup.tokenizer import Tokenizer


def open_model(path: Path | str, device: str = "auto") -> tuple[nn.Module, Tokenizer]:
    """The model and the tokenizer that `path` holds, ready to speak.

    A folder of 07-quantized's layout, a Hugging Face folder with GPTQ, AWQ or compressed-tensors weights, or
    anything that `groundup.interop.open_model` opens. Raises UserError likewise.
    """
    path = Path(path)
    if not is_quantized(path):
        return interop.open_model(path, device)
    model, tokenizer = load_quantized_model(path, interop.resolve_device(device))
    return use_int4_kernel(model), tokenizer


def is_quantized(path: Path) -> bool:
    """Whether `path` is a folder with quantized weights, ours or foreign."""
    return (path / QUANTIZATION).is_file() or (
        (path / CONFIG_FILE).is_file() and "quantization_config" in read_config(path)
    )


def load_quantized_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, Tokenizer]:
    """A quantized model whose layers all compute from the codes themselves, and its tokenizer."""
    load = load_quantized_folder if (path / QUANTIZATION).is_file() else load_huggingface_quantized
    return load(path, device), Tokenizer.load(path)


def export_model(path: Path | str, out: Path | str, *, format: str, dtype: str = "float32") -> list[Path]:
    """Write the model at `path` as the folder `out` in another layout. Returns the files written.

    huggingface and gguf take any model (a quantized one is written out in full); gptq, awq and
    compressed-tensors take quantized ones. Raises UserError for a layout that cannot hold the model, and when `out` is in
    use already.
    """
    path, out = Path(path), Path(out)
    if format not in (known := (*interop.EXPORT_FORMATS, *FORMATS)):
        raise UserError(f"format {format!r}, expected one of {', '.join(known)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already", hint="name a new folder with --out")
    if format not in FORMATS:
        model, tokenizer = (
            load_quantized_model(path) if is_quantized(path) else interop.open_model(path, "cpu")
        )
        return interop.export(dequantize_model(model), tokenizer, out, format=format, dtype=dtype)
    if not is_quantized(path):
        raise UserError(
            f"{path}: {format} holds quantized weights, and these are not",
            hint="groundup quantize MODEL --out DIR makes them; in a run, name its 07-quantized",
        )
    model, tokenizer = load_quantized_model(path)
    return export_huggingface_quantized(model, tokenizer, out, format=format, dtype=dtype)
