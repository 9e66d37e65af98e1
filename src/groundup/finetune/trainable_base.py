"""The base model of a fine-tuning stage, in the dtype that the method trains."""

from pathlib import Path

import torch
from torch import nn

from groundup.interop.model_loading import is_quantized
from groundup.model import load_model
from groundup.quantize.model_loader import load_quantized_model
from groundup.quantize.nf4_linear import load_nf4_model


def load_base(folder: Path, method: str, device: torch.device) -> nn.Module:
    """The base model as `method` trains it; for qlora in NF4, unless it is packed already."""
    if is_quantized(folder):
        return load_quantized_model(folder, device)[0]
    if method == "qlora":
        return load_nf4_model(folder, device)
    dtype = "float32" if method == "full" else None  # updates of all weights are too small for bfloat16
    return load_model(folder, device, dtype, verify=False)
