"""A quantized model made ready for inference: the fastest layer for each weight, one copy of the weights, memory given back."""

import ctypes
from contextlib import suppress

import torch
from torch import nn

from groundup.quantize.kernels.int4_cpu import Int4Linear, is_supported
from groundup.quantize.layers.quantized_linear import quantized_layers

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of `torch.cpu.get_capabilities` for x86 and ARM."""


def use_kernels(model: nn.Module) -> nn.Module:
    """Replace the layers that a kernel of this machine supports, one at a time, in place. Returns the model.

    Other layers dequantize and multiply. For inference only: such a model cannot be saved or exported.
    """
    for name, layer in quantized_layers(model).items():
        if is_supported(layer):
            model.set_submodule(name, Int4Linear(layer))
    release_freed_memory()
    return model


def inference_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes with it, for what is not quantized; else None: as in the file."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return torch.bfloat16 if any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS) else None
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None


def release_freed_memory() -> None:
    """Give freed blocks back to the system, which glibc otherwise keeps for this process; nothing with another C library."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
