"""The base model of a fine-tuning stage, in the dtype that the method trains, and the folder of what it becomes."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.artifacts.rank_environment import local_rank, world_size
from groundup.interop import resolve_device
from groundup.interop.adapters import merge_lora, save_adapter
from groundup.interop.adapters.base_fingerprint import base_name
from groundup.interop.adapters.trainable_tokens import merge_trainable_tokens
from groundup.interop.model_loading import is_quantized
from groundup.model import load_model, save_model
from groundup.plan.layout.tuning_layout import tuning_layout
from groundup.quantize.layers.nf4_linear import load_nf4_model
from groundup.quantize.model_loader import load_quantized_model
from groundup.quantize.quantizer import dequantize_model
from groundup.recipe.layout_config import LayoutConfig
from groundup.tokenizer import Tokenizer


def machine_of_rank(machine: Machine) -> Machine:
    """`machine` as a stage that tunes a model uses it: with the layout of tuning, and the device of this rank."""
    layout = tuning_layout(LayoutConfig(**machine.layout), world_size()).model_dump()
    device = machine.device
    if world_size() > 1 and resolve_device(device).type == "cuda":
        device = f"cuda:{local_rank()}"
    return replace(machine, layout=layout, device=device)


def load_base(folder: Path, method: str, device: torch.device) -> nn.Module:
    """The base model as `method` trains it; for qlora in NF4, unless it is packed already."""
    if is_quantized(folder):
        return load_quantized_model(folder, device)[0]
    if method == "qlora":
        return load_nf4_model(folder, device)
    dtype = "float32" if method == "full" else None  # updates of all weights are too small for bfloat16
    return load_model(folder, device, dtype, verify=False)


def save_tuned(model: nn.Module, tokenizer: Tokenizer, out: Path, method: str, base: Path) -> None:
    """Write the tuned model to `out`; with adapters, also these to out/adapter, before they are merged into `model`."""
    if method != "full":
        save_adapter(model, out / "adapter", base=base_name(base))
        tokenizer.save(out / "adapter")
        dequantize_model(merge_trainable_tokens(merge_lora(model)))  # also layers without adapters
    save_model(model, out)
    tokenizer.save(out)
