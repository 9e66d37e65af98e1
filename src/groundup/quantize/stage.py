"""Stage 07-quantized: quantize the chat model, or the base model in a run without one."""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup import interop
from groundup.artifacts.directory import FINGERPRINT_FILE
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.machine import Machine
from groundup.plan.stage_support import check_quantization
from groundup.quantize.calibration_windows import calibration_length, concatenated_windows, evenly_spaced_windows
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, adapt_scheme, quantize_model
from groundup.quantize.standalone import quantization_summary
from groundup.recipe import RecipeView
from groundup.tokenizer import Tokenizer, TokenShard

CHAT_DIVISOR = 4
"""At most 1 / CHAT_DIVISOR of the calibration tokens come from conversations; the rest is pretraining text."""

CONVERSATIONS_FILE = "train.jsonl"
"""In 06-chat: its training conversations, one {"messages": [...]} a line."""


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Quantize, and compare with the float model and with rounding to nearest at the same scheme.

    Returns the metrics: method, bits, group_size, symmetric, bits_per_weight, from ("chat" or "base"), bytes (before,
    after), weights (quantized, others), calibration_tokens (text, chat), held_out (for float, rtn and the method: loss,
    bits_per_byte, kl_divergence, top1_agreement), layers (for each: error, rtn_error).
    """
    for entry in out.iterdir():  # a killed attempt is started again, not resumed
        if entry.name != FINGERPRINT_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    section = recipe.quantize
    source = inputs["chat" if "chat" in inputs else "base"]
    torch.set_num_threads(machine.threads)
    model, tokenizer = interop.open_model(source, machine.device, verify=False)
    check_quantization(model.config.architecture)  # type: ignore[union-attr,arg-type]
    scheme = adapt_scheme(model, QuantizationScheme(section.bits, section.group_size, section.symmetric))
    settings = QuantizationSettings(section.method, scheme, section.damp_percent, section.act_order)
    text, chat = _calibration_windows(model, tokenizer, inputs, section.calibration_tokens)
    held_out = TokenShard(inputs["tokens"] / "validation")
    length = calibration_length(model, held_out.num_tokens)
    windows = evenly_spaced_windows(held_out.tokens, length, section.eval_tokens)

    quantized = copy.deepcopy(model)
    errors = quantize_model(quantized, settings, torch.cat([text, chat]), machine.progress)
    models = {"rtn": copy.deepcopy(model)}
    quantize_model(models["rtn"], QuantizationSettings("rtn", scheme))
    models |= {section.method: quantized}
    with machine.progress.task("comparing", total=windows.numel(), unit="tokens") as task:
        compared = compare_with_float(model, models, windows, task)

    save_quantized_folder(quantized.cpu(), out, section.method)
    tokenizer.save(out)
    rate = held_out.bytes / held_out.num_tokens
    return {
        "from": "chat" if "chat" in inputs else "base",
        **quantization_summary(quantized, errors, source, out),
        "calibration_tokens": {"text": text.numel(), "chat": chat.numel()},
        "eval_tokens": windows.numel(),
        "held_out": {n: asdict(c) | {"bits_per_byte": c.bits_per_byte(rate)} for n, c in compared.items()},
        "layers": [asdict(error) for error in errors],
    }


def _calibration_windows(
    model: nn.Module, tokenizer: Tokenizer, inputs: dict[str, Path], tokens: int
) -> tuple[Tensor, Tensor]:
    """Windows of the training text, and of a chat model's training conversations."""
    shard = TokenShard(inputs["tokens"] / "train")
    length = calibration_length(model, shard.num_tokens)
    chat = torch.zeros(0, length, dtype=torch.int64)
    if "chat" in inputs and (file := inputs["chat"] / CONVERSATIONS_FILE).is_file():
        chat = concatenated_windows(_rendered_conversations(tokenizer, file), length, tokens // CHAT_DIVISOR)
    return evenly_spaced_windows(shard.tokens, length, max(length, tokens - chat.numel())), chat


def _rendered_conversations(tokenizer: Tokenizer, file: Path) -> Iterator[list[int]]:
    for record in read_jsonl(file):
        yield tokenizer.render_chat(record["messages"])
