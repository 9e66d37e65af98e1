"""Opening models by path: our own folders, runs, Hugging Face folders and GGUF files."""

import re
from copy import copy
from pathlib import Path

import torch
from torch import nn

from groundup.artifacts import manifest
from groundup.artifacts.errors import UserError
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters import adapter_tokenizer, add_adapter, split_adapter
from groundup.interop.huggingface_model import CONFIG_FILE as HUGGINGFACE_CONFIG
from groundup.interop.huggingface_model import load_huggingface, read_config
from groundup.interop.pickled_weights import PICKLES, conversion_command
from groundup.interop.scaled_weights import is_scaled
from groundup.model import load_model
from groundup.model.serialization import CONFIG_FILE as NATIVE_CONFIG
from groundup.model.token_weights import load_token_weights
from groundup.stages import MODEL_STAGES, STAGE_FOLDERS
from groundup.tokenizer import Tokenizer, load_pretrained_tokenizer

MODEL_FOLDERS = tuple(STAGE_FOLDERS[name] for name in reversed(MODEL_STAGES))
"""Folders of a run with a model, the last stage first."""

QUANTIZATION_FILE = "quantization.json"
"""In a folder of packed weights in groundup's own layout."""

DEVICE = re.compile(r"auto|(?:cpu|cuda|mps|xpu|hpu|meta)(?::\d+)?")

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""ORGANIZATION/NAME, as models are called on the Hub of Hugging Face."""

EXPECTED = "a model folder, a run, a Hugging Face folder or a .gguf file"


def open_model(
    path: Path | str,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    *,
    adapter: Path | str | None = None,
    verify: bool = True,
) -> tuple[nn.Module, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer at `path`, not quantized; `groundup.open_model` opens quantized ones too.

    Args:
        device: "auto" is an accelerator if there is one.
        dtype: of the weights, such as "bfloat16"; None keeps that of the files, which is bfloat16 for the packed types of GGUF.
        adapter: a PEFT folder, a run or a stage, whose adapter is merged into the weights.
        verify: compare the files of a run's stage with their SHA-256, and the base of an adapter with its fingerprint, first.

    `path` may be an adapter folder, if the base that it names is here.
    Raises UserError where `path` holds no complete model; a folder of `save_model` needs `tokenizer.save(folder)` too.

    >>> model, tokenizer = open_model("runs/quickstart")
    """
    path, adapter = split_adapter(path, adapter)
    if adapter is not None:
        model, tokenizer = open_model(path, device, dtype, verify=verify)
        return add_adapter(model, adapter, verify=verify), adapter_tokenizer(adapter, tokenizer)
    path = resolve_model_path(path)
    target = resolve_device(device)
    if verify:
        check_artifact(path)
    if path.suffix == ".gguf":
        from groundup.interop.gguf import load_gguf  # optional dependency

        return load_gguf(path, target, dtype)
    if (path / NATIVE_CONFIG).is_file():
        return load_model(path, target, dtype, verify=False), Tokenizer.load(path)
    model = load_huggingface(path, target, dtype)
    load_token_weights(model, path)
    return model, load_pretrained_tokenizer(path)


def resolve_model_path(path: Path) -> Path:
    """The model folder or .gguf file at `path`: itself, or the best model of a run."""
    if not path.exists():
        hint = "groundup run RECIPE creates a run"
        if HUB_NAME.fullmatch(str(path)) and not path.parent.exists():
            hint = f"models are not downloaded here: hf download {path} --local-dir {path.name}, then name {path.name}"
        raise UserError(f"{path}: no such file or folder, expected {EXPECTED}", hint=hint)
    if path.is_file():
        return _check_file(path)
    if any((path / name).is_file() for name in (NATIVE_CONFIG, HUGGINGFACE_CONFIG)):
        return path
    for name in MODEL_FOLDERS:
        if (path / name / manifest.MANIFEST_FILE).is_file():
            return path / name
    if unfinished := [name for name in MODEL_FOLDERS if (path / f"{name}.partial").exists()]:
        raise UserError(
            f"{path}: a run without a finished model: {unfinished[-1]} is incomplete", hint="groundup run continues it"
        )
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1 or (files and len(files) == len(list(path.glob(f"*-of-{len(files):05d}.gguf")))):
        return files[0]  # the only one, or the first of one model in several files
    if files:
        raise UserError(f"{path}: {len(files)} .gguf files, expected one", hint=f"name it: {files[0]}")
    inside = (
        ", ".join(sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))[:5]) or "nothing"
    )
    raise UserError(
        f"{path}: contains {inside}; expected {EXPECTED}",
        hint=f"in a run, {', '.join(reversed(MODEL_FOLDERS))} and {STAGE_FOLDERS['quantized']} hold models",
    )


def is_quantized(path: Path) -> bool:
    """Whether `path` is a folder with weights that stay quantized; float8 and MXFP4 are read as floating point."""
    if (path / QUANTIZATION_FILE).is_file():
        return True
    fields = read_config(path) if (path / HUGGINGFACE_CONFIG).is_file() else {}
    return fields.get("quantization_config") is not None and not is_scaled(fields)


def resolve_device(device: str) -> torch.device:
    """`device`, with "auto" as the first available accelerator, else the CPU. Raises UserError if it is unavailable."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not DEVICE.fullmatch(str(device)):
        raise UserError(f"device {device!r}: unknown", hint="auto, cpu, cuda, cuda:1 (the second one) or mps")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {device!r}: {reason}", hint='"auto" takes an available device, "cpu" always works'
        ) from None
    return torch.device(device)


def _check_file(path: Path) -> Path:
    if path.suffix == ".gguf":
        return path
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path}: weights without a configuration, expected {EXPECTED}",
            hint=f"open the folder that holds it: {path.parent}",
        )
    if path.suffix in PICKLES:
        raise UserError(
            f"{path}: a pickle, which can run code when opened; expected {EXPECTED}",
            hint=f"take the safetensors version of the model, or convert it: {conversion_command(path.parent, [path.name])}",
        )
    raise UserError(f"{path}: not a model, expected {EXPECTED}")


def as_trained(folder: Path, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of the model in `folder`; that of a run's pretraining without its chat template, which was never trained."""
    found = manifest.Manifest.read(folder) if folder.is_dir() else None
    if found is None or found.stage != "base" or "tokenizer" not in found.inputs:
        return tokenizer
    plain = copy(tokenizer)
    plain.chat_template = None
    return plain
