"""From foreign tensors to a model of ours: all is compared before anything is read, nothing is held twice."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.pairs import Pair, check, expected_shapes, to_ours
from groundup.interop.weights import Source, cast
from groundup.model import build_model
from groundup.model.rope import Rotary
from groundup.recipe import ModelConfig


def assemble(
    config: ModelConfig,
    pairs_of: Callable[[ModelConfig, Sequence[str]], Iterable[Pair]],
    source: Source,
    *,
    ignored: Iterable[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The model that `config` describes with the weights of `source`, in evaluation mode.

    Weights keep the dtype of the source where `dtype` is None.
    Raises UserError naming a tensor that is missing, unexpected or of another shape; there is then no model.
    """
    if config.num_layers > len(source.shapes):  # a damaged file may describe millions of blocks: never build them
        raise UserError(
            f"{config.num_layers} blocks described, but only {len(source.shapes)} tensors found",
            hint="the file is damaged, or incomplete",
        )
    with torch.device("meta"):  # shapes without memory; nothing is initialised in vain
        model = build_model(config)
    empty = model.state_dict()
    pairs = list(pairs_of(config, list(empty)))
    check(expected_shapes(pairs, empty), source, ignored)
    weights = {name: cast(tensor, dtype).to(device) for name, tensor in to_ours(pairs, source)}
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, Rotary):
            module.to_empty(device=device)  # it computes what it holds
    return model.requires_grad_().eval()
