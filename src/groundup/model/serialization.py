"""Models in folders: model.json (the configuration) and model.safetensors (the weights). Nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from groundup.artifacts.arguments import check_choice
from groundup.artifacts.directory import DEFAULT_FILE_MODE
from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.artifacts.run_record import check_artifact
from groundup.artifacts.storage_errors import native_storage_error
from groundup.model.decoder import Decoder
from groundup.model.encoder import Encoder
from groundup.model.encoder_decoder import EncoderDecoder
from groundup.model.moe import ExpertBias
from groundup.model.rope import RotaryEmbedding
from groundup.model.token_weights import TOKEN_WEIGHTS, TOKEN_WEIGHTS_FILE, get_token_weights, load_token_weights
from groundup.recipe import ModelConfig

ARCHITECTURES: dict[str, type[Decoder] | type[Encoder] | type[EncoderDecoder]] = {
    "decoder": Decoder,
    "encoder": Encoder,
    "encoder_decoder": EncoderDecoder,
}

CONFIG_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
LABELS_FILE, CLASSIFIER_FILE = "labels.json", "classifier.safetensors"
"""Beside them: the labels of a text classifier and its linear layer."""


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions that the umask gives; `save_file` alone writes mode 0600. Raises OSError."""
    try:
        save_file(tensors, path, metadata=metadata or {"format": "pt"})
    except SafetensorError as error:
        raise native_storage_error(error, path) or error from None
    path.chmod(DEFAULT_FILE_MODE)


def save_model(model: nn.Module, folder: Path | str) -> None:
    """Write `model` into `folder`, which is created if missing. A tied head is stored once, as the embedding.

    The tokenizer is not part of it: `tokenizer.save(folder)` makes the folder one that `open_model` opens.
    Raises UserError for a model with other tensors than its configuration has: quantized, or with LoRA.
    """
    if model.state_dict().keys() != build_meta_model(model.config).state_dict().keys():  # type: ignore[arg-type]
        raise UserError(
            "the model is quantized or has LoRA layers, expected plain weights",
            hint="quantize_folder or dequantize_model; merge_lora",
        )
    write_model_files(model, Path(folder))


def write_model_files(model: nn.Module, folder: Path) -> None:
    """model.json and model.safetensors, with whatever tensors the model has."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_tensors(weights, folder / WEIGHTS_FILE)
    save_token_weights(model, folder)
    config = model.config.model_dump(mode="json", exclude_none=True)  # type: ignore[union-attr,operator]
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def save_token_weights(model: nn.Module, folder: Path) -> list[Path]:
    """Write the weights of `token_weights.py`, if `model` has any. Returns the files written."""
    if (weights := get_token_weights(model)) is None:
        return []
    save_tensors({TOKEN_WEIGHTS: weights.detach().cpu()}, folder / TOKEN_WEIGHTS_FILE)
    return [folder / TOKEN_WEIGHTS_FILE]


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    *,
    verify: bool = True,
) -> nn.Module:
    """The model of a folder of `save_model`, in evaluation mode; in `dtype`, or in the dtype of the file.

    `verify`: compare the files of a run's stage with their SHA-256 first.
    Raises UserError for a missing or damaged file, and for weights that do not fit model.json: tensor, expected, found.

    >>> save_model(model, Path("tiny"))
    >>> model = load_model(Path("tiny"), device="cuda", dtype=torch.bfloat16)
    """
    folder = Path(folder)
    dtype = resolve_dtype(dtype)
    if verify:
        check_artifact(folder)
    model = build_meta_model(load_config(folder))
    assign_weights(model, _read_weights(folder / WEIGHTS_FILE), source=str(folder / WEIGHTS_FILE))
    load_token_weights(model, folder)
    return model.to(device=device, dtype=dtype).eval()  # type: ignore[arg-type]


def resolve_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of a name. Raises UserError for an unknown one."""
    if not isinstance(dtype, str):
        return dtype
    name = dtype.removeprefix("torch.")
    check_choice("dtype", name, ("float32", "bfloat16", "float16"))
    return getattr(torch, name)


def weight_dtype(model: nn.Module) -> str:
    """The dtype of the weights that are not quantized."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def load_config(folder: Path) -> ModelConfig:
    """The configuration of the model in `folder`."""
    path = folder / CONFIG_FILE
    fields = read_json_object(path, hint="expected a model folder with model.json and model.safetensors")
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "model"
        raise UserError(f"{path}: {field}: {first['msg']}", hint="the file was damaged or edited") from None


def build_model(config: ModelConfig) -> nn.Module:
    """A new model of `config.architecture`, with initialized weights."""
    return ARCHITECTURES[config.architecture](config)


def build_meta_model(config: ModelConfig, device: torch.device | str = "meta") -> nn.Module:
    """A model with weights on the meta device (no memory), to be filled by `assign_weights`; RoPE buffers on `device`."""
    try:
        with torch.device("meta"), _WithoutInitialization():
            model = build_model(config)
        if str(device) != "meta":
            _reset_buffers(model, device)
    except (RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not enough memory"
        raise UserError(
            f"a model of these sizes cannot be built: {reason}", hint="is its configuration intact?"
        ) from None
    return model


class _WithoutInitialization(TorchFunctionMode):
    """Leaves out torch.nn.init, which takes most of the time of building a model without memory."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def assign_weights(model: nn.Module, weights: dict[str, Tensor], *, source: str) -> None:
    """Make `weights` the parameters and buffers of `model`, which may be on the meta device, on the device of `weights`.

    Raises UserError for a missing, unexpected or misshaped tensor, before any is assigned; `source` names their origin.
    """
    expected = model.state_dict()
    hint = "the file belongs to another model, or is incomplete"
    if missing := sorted(expected.keys() - weights.keys()):
        raise UserError(f"{source}: {_first_names(missing)}: expected, not found", hint=hint)
    if extra := sorted(weights.keys() - expected.keys()):
        raise UserError(f"{source}: {_first_names(extra)}: found, not expected", hint=hint)
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {name}: expected shape {tuple(tensor.shape)}, found {tuple(weights[name].shape)}", hint=hint
            )
    model.load_state_dict(weights, assign=True)
    _reset_buffers(model, next(iter(weights.values())).device)


def _reset_buffers(model: nn.Module, device: torch.device | str) -> None:
    """Compute the buffers that are not stored, on `device`."""
    with torch.device(device):
        for module in model.modules():
            if isinstance(module, RotaryEmbedding | ExpertBias):
                module.reset_buffers()


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file", hint="expected a model folder with model.json and model.safetensors"
        ) from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged: {error}", hint="copy or download the file again") from None


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
