"""07-quantized: the chat model, or the base model where there is none, in a few bits a weight."""

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup import interop
from groundup.artifacts.directory import FINGERPRINT_FILE
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress
from groundup.model.storage import WEIGHTS
from groundup.quantize.compare import compare
from groundup.quantize.folder import save_quantized
from groundup.quantize.grid import Scheme
from groundup.quantize.linear import quantized_layers
from groundup.quantize.quantize import METHODS, LayerError, Settings, fit_scheme, quantize_model
from groundup.quantize.windows import side_by_side, spread
from groundup.tokenizer import Tokenizer, TokenShard

CHAT_SHARE = 4
"""At most one calibration window in so many is conversation; the rest is the text that the base model learned
from.
"""

CONVERSATIONS = "train.jsonl"
"""In 06-chat: the conversations it was trained on, one {"messages": [...]} a line."""


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Quantize, and compare with the model as it was and with rounding to nearest at the same scheme.

    Returns the metrics: method, bits, group_size, symmetric, bits_per_weight, from (which model), bytes
    (before, after), weights (quantized, others), calibration_tokens (text, chat), held_out (for float, rtn
    and the method: loss, bits_per_byte, divergence, agreement), layers (for each: error, rtn_error).
    """
    for entry in out.iterdir():  # what a killed attempt left is quicker made again than continued
        if entry.name != FINGERPRINT_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    section = recipe.quantize
    source = inputs["chat" if "chat" in inputs else "base"]
    torch.set_num_threads(machine.threads)
    model, tokenizer = interop.open_model(source, machine.device)
    scheme = fit_scheme(model, Scheme(section.bits, section.group_size, section.symmetric))
    settings = Settings(section.method, scheme, section.damping, section.act_order)
    text, chat = _calibration(model, tokenizer, inputs, section.calibration_tokens)
    held_out = TokenShard(inputs["tokens"] / "validation")
    windows = spread(held_out.tokens, min(_context(model), held_out.num_tokens), section.held_out_tokens)

    quantized = copy.deepcopy(model)
    errors = quantize_model(quantized, settings, torch.cat([text, chat]), machine.progress)
    models = {"rtn": copy.deepcopy(model)}
    quantize_model(models["rtn"], Settings("rtn", scheme))
    models |= {section.method: quantized}
    with machine.progress.task("comparing", total=windows.numel(), unit="tokens") as task:
        compared = compare(model, models, windows, task)

    save_quantized(quantized.cpu(), out, section.method)
    tokenizer.save(out)
    rate = held_out.bytes / held_out.num_tokens
    return {
        "from": "chat" if "chat" in inputs else "base",
        **facts(quantized, errors, source, out),
        "calibration_tokens": {"text": text.numel(), "chat": chat.numel()},
        "held_out_tokens": windows.numel(),
        "held_out": {n: asdict(c) | {"bits_per_byte": c.bits_per_byte(rate)} for n, c in compared.items()},
        "layers": [asdict(error) for error in errors],
    }


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
    calibration_tokens: int = 65_536,
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


def _calibration(
    model: nn.Module, tokenizer: Tokenizer, inputs: dict[str, Path], tokens: int
) -> tuple[Tensor, Tensor]:
    """Windows of training text, and of the conversations that a chat model has learned."""
    shard = TokenShard(inputs["tokens"] / "train")
    length = min(_context(model), shard.num_tokens)
    chat = torch.zeros(0, length, dtype=torch.int64)
    if "chat" in inputs and (file := inputs["chat"] / CONVERSATIONS).is_file():
        chat = side_by_side(_rendered(tokenizer, file), length, tokens // CHAT_SHARE)
    return spread(shard.tokens, length, max(length, tokens - chat.numel())), chat


def _rendered(tokenizer: Tokenizer, file: Path) -> Iterator[list[int]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        yield tokenizer.render_chat(json.loads(line)["messages"])


def _windows_for(
    model: nn.Module, tokenizer: Tokenizer, source: Path, text: str | None, tokens: int, method: str
) -> Tensor | None:
    if text is not None:
        ids = tokenizer.encode(text)
        return spread(ids, min(_context(model), max(1, len(ids))), tokens)
    beside = source.parent / "03-tokens" / "train"
    if beside.with_suffix(".json").is_file():
        shard = TokenShard(beside)
        shard.check(tokenizer)
        return spread(shard.tokens, min(_context(model), shard.num_tokens), tokens)
    if method == "rtn":
        return None
    raise UserError(f"{method} looks at text, and none was given", hint="--calibration FILE, or --method rtn")


def _context(model: nn.Module) -> int:
    """The model's context, or as much of it as calibration text needs."""
    return min(model.config.context_length, 2_048)  # type: ignore[union-attr,operator]
