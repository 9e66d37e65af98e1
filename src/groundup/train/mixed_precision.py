"""Precision of training: autocast to bfloat16, bfloat16 weights, float8 products."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from groundup.recipe.train_config import Precision
from groundup.train.float8 import convert_to_float8_training, require_float8


def prepare_weights(model: nn.Module, precision: Precision, device: torch.device) -> None:
    """Convert weights or linear layers for the precisions that autocast does not cover.

    Raises UserError for float8 on a device without support.
    """
    if precision == "float8":
        require_float8(device)
        convert_to_float8_training(model)
    if precision == "bfloat16-pure":
        for weight in model.parameters():  # not the buffers: rotary tables need float32
            weight.data = weight.data.to(torch.bfloat16)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of matrix products in bfloat16; no-op for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
