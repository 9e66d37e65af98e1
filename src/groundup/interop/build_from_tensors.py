"""From foreign tensors to a model of ours: all is compared before anything is read, nothing is held twice."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource, cast_floating
from groundup.interop.weight_map import TensorMap, check_tensors, convert_to_native, expected_shapes
from groundup.model import build_model
from groundup.model.rope import RotaryEmbedding
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
    """The model that `config` describes with the weights of `source`, in evaluation mode.

    Weights keep the dtype of the source where `dtype` is None.
    Raises UserError naming a tensor that is missing, unexpected or of another shape; there is then no model.
    """
    if config.num_layers > len(source.shapes):  # a damaged number must not keep us building for hours
        found = f"{len(source.shapes)} tensors for num_layers = {config.num_layers:,}"
        raise UserError(f"{source.path}: {found}, expected several for each layer")
    with torch.device("meta"):  # shapes without memory; nothing is initialised in vain
        model = build_model(config)
    empty = model.state_dict()
    pairs = list(build_weight_map(config, list(empty)))
    check_tensors(expected_shapes(pairs, empty), source, ignored)
    weights = {
        name: cast_floating(tensor, dtype).to(device).contiguous()
        for name, tensor in convert_to_native(pairs, source)
    }
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            module.to_empty(device=device)  # it computes what it holds
    return model.requires_grad_().eval()
