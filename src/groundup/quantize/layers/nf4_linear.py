"""Linear layer with a frozen weight in NF4, dequantized in each pass, and models made of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model import assign_weights, build_meta_model, load_config
from groundup.model.frozen_linear import PackedLinear
from groundup.model.moe import Experts
from groundup.model.token_weights import load_token_weights
from groundup.quantize.layers.nf4 import BLOCK, NF4, SCALE_BLOCK, NF4Weight, dequantize_nf4, quantize_nf4
from groundup.quantize.layers.quantized_experts import QuantizedExperts, split_experts

PARTS = ("codes", "scale_codes", "scale_of_scales", "mean")


class NF4Linear(PackedLinear):
    """y = x W^T + b with W in NF4: see nf4.py. The gradient reaches the input only.

    Attributes:
        codes, scale_codes, scale_of_scales, mean: those of NF4Weight.
        bias: (out), or None.
        float_dtype: of the weight that was quantized.
    """

    codes: Tensor
    scale_codes: Tensor
    scale_of_scales: Tensor
    mean: Tensor
    scheme = NF4

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.float_dtype = weight.dtype
        quantized = quantize_nf4(weight)
        for part in PARTS:
            self.register_buffer(part, getattr(quantized, part))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @classmethod
    def from_weight(cls, weight: NF4Weight, bias: Float[Tensor, " out"] | None = None) -> "NF4Linear":
        """A layer with a weight that is quantized already."""
        layer = cls.__new__(cls)
        PackedLinear.__init__(layer)
        layer.out_features, layer.in_features = weight.shape
        for part in PARTS:
            layer.register_buffer(part, getattr(weight, part))
        layer.register_buffer("bias", None if bias is None else bias.detach().clone())
        return layer

    @classmethod
    def empty(cls, in_features: int, out_features: int, bias: torch.dtype | None = None) -> "NF4Linear":
        """A layer to load a weight into."""
        blocks = in_features * out_features // BLOCK
        weight = NF4Weight(
            torch.zeros(in_features * out_features // 2, dtype=torch.uint8),
            torch.zeros(blocks, dtype=torch.uint8),
            torch.zeros(-(-blocks // SCALE_BLOCK)),
            torch.zeros(()),
            (out_features, in_features),
        )
        return cls.from_weight(weight, None if bias is None else torch.zeros(out_features, dtype=bias))

    def packed_weight(self) -> NF4Weight:
        """The weight as it is stored."""
        shape = (self.out_features, self.in_features)
        return NF4Weight(self.codes, self.scale_codes, self.scale_of_scales, self.mean, shape)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """The represented weight."""
        return dequantize_nf4(self.packed_weight(), dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "NF4Linear":
        """Move the scales without casting them: `model.to(torch.bfloat16)` must not change the weights."""
        scales = {name: getattr(self, name) for name in ("scale_of_scales", "mean")}
        super()._apply(fn, recurse)
        for name, scale in scales.items():
            setattr(self, name, scale.to(self.codes.device))
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


def load_nf4_model(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model in `folder` (groundup's own layout) with linear layers and experts of its blocks in NF4, the rest as in the file.

    Tensors are read and quantized one at a time, of experts the stacks of a block: the model is never in memory in
    floating point. In evaluation mode, frozen.
    Raises UserError as `load_model` does, and as `quantize_nf4`.
    """
    model = build_meta_model(load_config(folder)).requires_grad_(False)
    source = SafetensorsFolder(folder)
    linears = {name: layer for name, layer in _block_linears(model).items() if f"{name}.weight" in source.shapes}
    experts = {name: module for name, module in model.named_modules() if type(module) is Experts}
    stacks = {
        f"{name}.{part}": tensor for name, module in experts.items() for part, tensor in module.named_parameters()
    }
    _check_shapes({f"{name}.weight": layer.weight for name, layer in linears.items()} | stacks, source)
    floats = set(source.shapes) - {f"{name}.{part}" for name in linears for part in ("weight", "bias")} - stacks.keys()
    for name in linears:
        bias = source.read(f"{name}.bias").to(device) if f"{name}.bias" in source.shapes else None
        weight = source.read(f"{name}.weight")
        model.set_submodule(name, NF4Linear(weight.to(device), bias))
        del weight  # its pages of the file are given back before the next
    for name, module in experts.items():
        for part, _ in list(module.named_parameters()):
            tensor = source.read(f"{name}.{part}").to(device)
            module.register_parameter(part, nn.Parameter(tensor, requires_grad=False))
        model.set_submodule(name, pack_nf4(QuantizedExperts(module)))
    state = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    assign_weights(model, state | {name: source.read(name).to(device) for name in floats}, source=str(folder))
    load_token_weights(model, folder)
    return model.to(device).eval().requires_grad_(False)


def _check_shapes(expected: Mapping[str, Tensor], source: SafetensorsFolder) -> None:
    """Raises UserError for a weight that is missing or of another shape than in the model, before any is read."""
    for name, weight in expected.items():
        if source.shapes.get(name) != tuple(weight.shape):
            raise UserError(
                f"{source.path}: {name}: expected shape {tuple(weight.shape)}, found {source.shapes.get(name)}",
                hint="the file belongs to another model, or is incomplete",
            )


def pack_nf4(module: nn.Module) -> nn.Module:
    """Replace the linear layers and experts of a model's blocks by layers in NF4, in place, one at a time. Returns the module."""
    split_experts(module)
    inside = isinstance(module, QuantizedExperts)
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.Linear and (inside or ".blocks." in f".{name}"):
            module.set_submodule(name, NF4Linear(layer.weight.detach(), layer.bias))
    return module


def _block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module for name, module in model.named_modules() if type(module) is nn.Linear and ".blocks." in f".{name}"
    }
