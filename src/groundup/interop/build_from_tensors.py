"""Models from foreign tensors: all shapes are checked before anything is read, tensors are converted one at a time."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource, cast_floating
from groundup.interop.weight_map import TensorMap, check_tensors, convert_to_native, expected_shapes
from groundup.model import assign_weights, build_meta_model
from groundup.recipe import ModelConfig


def build_from_tensors(
    config: ModelConfig,
    build_weight_map: Callable[[ModelConfig, Sequence[str]], Iterable[TensorMap]],
    source: TensorSource,
    *,
    ignored: Iterable[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The model of `config` with the weights of `source`, in evaluation mode; `dtype` None keeps the source's dtype.

    Raises UserError for a missing, unexpected or misshaped tensor, before any is read.
    """
    if config.num_layers > len(source.shapes):  # a damaged number would build modules for hours
        raise UserError(
            f"{source.path}: {len(source.shapes)} tensors for num_layers = {config.num_layers:,}, "
            "expected several per layer"
        )
    model = build_meta_model(config)
    empty = model.state_dict()
    weight_map = list(build_weight_map(config, list(empty)))
    check_tensors(expected_shapes(weight_map, empty), source, ignored)
    weights = {
        name: cast_floating(tensor, dtype).to(device).contiguous()
        for name, tensor in convert_to_native(weight_map, source)
    }
    assign_weights(model, weights, source=str(source.path))
    return model.requires_grad_().eval()
