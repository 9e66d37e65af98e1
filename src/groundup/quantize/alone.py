"""A model by itself, outside of a run: what `groundup quantize` does, and the facts of any quantized
model.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from groundup import interop
from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.model.storage import WEIGHTS
from groundup.quantize.folder import save_quantized
from groundup.quantize.grid import Scheme
from groundup.quantize.linear import quantized_layers
from groundup.quantize.quantize import METHODS, LayerError, Settings, fit_scheme, quantize_model
from groundup.quantize.windows import spread
from groundup.tokenizer import Tokenizer, TokenShard


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
) -> dict[str, Any]:
    """Quantize the model at `model_path` into the new folder `out`. Returns what was done and what it cost.

    Where gptq or awq get no calibration text, they take the training tokens of the run that the model belongs
    to. Raises UserError when there are none, for an unknown method, and when `out` is in use already.
    """
    model_path, out = Path(model_path), Path(out)
    if method not in METHODS or bits not in (4, 8):
        raise UserError(f"method = {method}, bits = {bits}; expected one of {', '.join(METHODS)} and 4 or 8")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already", hint="name a new folder with --out")
    source = interop.find_model(model_path)
    model, tokenizer = interop.open_model(source, device)
    scheme = fit_scheme(model, Scheme(bits, group_size, symmetric))
    windows = _windows_for(model, tokenizer, source, calibration_text, calibration_tokens, method)
    errors = quantize_model(model, Settings(method, scheme), windows, progress)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_quantized(model.cpu(), partial, method)
    tokenizer.save(partial)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return facts(model, errors, source, out)


def facts(model: nn.Module, errors: list[LayerError], source: Path, out: Path) -> dict[str, Any]:
    """What a quantized model is, and how it compares in size with the one it came from."""
    layers = quantized_layers(model)
    scheme = next(iter(layers.values())).scheme
    before = sum(
        file.stat().st_size for file in ([source] if source.is_file() else source.glob("*.safetensors"))
    )
    mean = [
        sum(getattr(error, name) for error in errors) / max(1, len(errors)) for name in ("error", "rtn_error")
    ]
    method = json.loads((out / "quantization.json").read_text())["method"]
    return {
        "method": method,
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "bits_per_weight": scheme.bits_per_weight,
        "bytes": {"before": before, "after": (out / WEIGHTS).stat().st_size},
        "weights": {
            "quantized": sum(layer.in_features * layer.out_features for layer in layers.values()),
            "others": sum(parameter.numel() for parameter in model.parameters()),
        },
        **({"mean_error": mean[0], "mean_rtn_error": mean[1]} if errors else {}),
    }


def _windows_for(
    model: nn.Module, tokenizer: Tokenizer, source: Path, text: str | None, tokens: int, method: str
) -> Tensor | None:
    if text is not None:
        ids = tokenizer.encode(text)
        return spread(ids, min(context(model), max(1, len(ids))), tokens)
    beside = source.parent / "03-tokens" / "train"
    if beside.with_suffix(".json").is_file():
        shard = TokenShard(beside)
        shard.check(tokenizer)
        return spread(shard.tokens, min(context(model), shard.num_tokens), tokens)
    if method == "rtn":
        return None
    raise UserError(f"{method} looks at text, and none was given", hint="--calibration FILE, or --method rtn")


def context(model: nn.Module) -> int:
    """The model's context, or as much of it as calibration text needs."""
    return min(model.config.context_length, 2_048)  # type: ignore[union-attr,operator]
