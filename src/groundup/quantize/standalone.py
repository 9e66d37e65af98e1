"""Quantization without a recipe: `quantize` for a model in memory, `quantize_folder` for one on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from groundup import interop
from groundup.artifacts.directory import new_folder
from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters import split_adapter
from groundup.interop.classifier_files import copy_classifier
from groundup.interop.model_card import write_card_files
from groundup.interop.model_loading import QUANTIZATION_FILE
from groundup.model.serialization import WEIGHTS_FILE
from groundup.quantize.calibration_windows import calibration_length, evenly_spaced_windows
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantized_folder import main_scheme, save_quantized_folder
from groundup.quantize.quantizer import (
    METHODS,
    LayerQuantizationError,
    QuantizationSettings,
    bits_per_weight,
    quantize_model,
)
from groundup.stages import STAGE_FOLDERS
from groundup.tokenizer import Tokenizer, TokenShard


def quantize(
    model: nn.Module,
    tokenizer: Tokenizer | None = None,
    calibration_texts: Sequence[str] = (),
    *,
    method: str = "gptq",
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    calibration_tokens: int = 32_768,
    progress: Progress | None = None,
) -> list[LayerQuantizationError]:
    """Quantize the linear layers of a model's blocks in place. Returns the output error of each layer.

        model, tokenizer = groundup.open_model("runs/quickstart")
        errors = quantize(model, tokenizer, ["Some text like the training text ..."], bits=4)

    gptq and awq need calibration texts and the
    tokenizer; rtn needs neither, and returns no errors without them.

    Raises UserError for an unknown method or bit width, and when gptq or awq get no calibration text.
    """
    _check_method(method)
    scheme = QuantizationScheme(bits, group_size, symmetric)
    windows = None
    if tokenizer is not None and calibration_texts:
        ids = [id for text in calibration_texts for id in tokenizer.encode(text)]
        windows = evenly_spaced_windows(ids, calibration_length(model, len(ids)), calibration_tokens)
    return quantize_model(model, QuantizationSettings(method, scheme), windows, progress)


def quantize_folder(
    model_path: Path | str,
    out: Path | str,
    *,
    method: str = "gptq",
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    device: str = "auto",
    calibration_text: str | None = None,
    calibration_tokens: int = 32_768,
    progress: Progress | None = None,
    adapter: Path | str | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Quantize the model at `model_path` into the new folder `out`. Returns the summary of `quantization_summary`.

    Without `calibration_text`, gptq and awq use the training tokens of the run that contains the model.
    `adapter`: merged into the weights first, as in `open_model`.
    `verify`: compare the files of a run with their SHA-256 first. Raises UserError when there are no tokens, for damaged
    files, for an unknown method, and when `out` is not empty.
    """
    (model_path, adapter), out = split_adapter(model_path, adapter), Path(out)
    _check_method(method)
    scheme = QuantizationScheme(bits, group_size, symmetric)
    with new_folder(out) as partial:
        source = interop.resolve_model_path(model_path)
        model, tokenizer = interop.open_model(source, device, adapter=adapter, verify=verify)
        run_tokens = source.parent / STAGE_FOLDERS["tokens"] / "train"
        if verify and calibration_text is None and method != "rtn":
            for suffix in (".json", ".idx", ".bin"):
                check_artifact(run_tokens.with_suffix(suffix))
        windows = _calibration_windows(model, tokenizer, run_tokens, calibration_text, calibration_tokens, method)
        errors = quantize_model(model, QuantizationSettings(method, scheme), windows, progress)
        save_quantized_folder(model.cpu(), partial, method)
        tokenizer.save(partial)
        write_card_files(source, partial)
        copy_classifier(source, partial)
    return quantization_summary(model, errors, source, out)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise UserError(f"method {method!r}: unknown", hint=f"one of {', '.join(METHODS)}")


def quantization_summary(
    model: nn.Module, errors: list[LayerQuantizationError], source: Path, out: Path
) -> dict[str, Any]:
    """Method, scheme, sizes before and after, and mean layer errors of a quantized model folder."""
    layers = quantized_layers(model)
    scheme = main_scheme(model)
    before = sum(file.stat().st_size for file in ([source] if source.is_file() else source.glob("*.safetensors")))
    mean_errors = [
        sum(getattr(error, name) for error in errors) / max(1, len(errors)) for name in ("error", "rtn_error")
    ]
    method = json.loads((out / QUANTIZATION_FILE).read_text())["method"]
    return {
        "method": method,
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "bits_per_weight": bits_per_weight(model),
        "bytes": {"before": before, "after": (out / WEIGHTS_FILE).stat().st_size},
        "weights": {
            "quantized": sum(layer.in_features * layer.out_features for layer in layers.values()),
            "others": sum(parameter.numel() for parameter in model.parameters()),
        },
        **({"mean_error": mean_errors[0], "mean_rtn_error": mean_errors[1]} if errors else {}),
    }


def _calibration_windows(
    model: nn.Module, tokenizer: Tokenizer, run_tokens: Path, text: str | None, tokens: int, method: str
) -> Tensor | None:
    if text is not None:
        ids = tokenizer.encode(text)
        return evenly_spaced_windows(ids, calibration_length(model, len(ids)), tokens)
    if run_tokens.with_suffix(".json").is_file():
        shard = TokenShard(run_tokens)
        shard.check_tokenizer(tokenizer)
        return evenly_spaced_windows(shard.tokens, calibration_length(model, shard.num_tokens), tokens)
    if method == "rtn":
        return None
    raise UserError(f"{method} needs calibration text", hint="--calibration FILE, or --method rtn")
