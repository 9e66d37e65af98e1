"""In which numbers a step is computed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from groundup.recipe.train_config import Precision
from groundup.train.float8 import convert_to_float8_training, require_float8


def prepare_weights(model: nn.Module, precision: Precision, device: torch.device) -> None:
    """Change the weights, or what multiplies them, where autocast alone does not do.

    Raises UserError for float8 on a device that has none.
    """
    if precision == "float8":
        require_float8(device)
        convert_to_float8_training(model)
    if precision == "bfloat16-pure":
        for weight in model.parameters():  # not the buffers: tables of angles need their digits
            weight.data = weight.data.to(torch.bfloat16)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16, whatever the weights are; or nothing, in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
