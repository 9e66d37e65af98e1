"""Models of GGUF files whose Q8_0, Q5_0 and Q4_0 layers stay packed: such a block is a symmetric group of 32, bit for bit.

Other types of packed tensors are unpacked to float32, as `interop.open_model` does with all: their scales have no form here.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from gguf import GGMLQuantizationType
from torch import nn

from groundup.interop.gguf.architectures import GGUF_ARCHITECTURES
from groundup.interop.gguf.architectures.gguf_architecture import gguf_weight_map
from groundup.interop.gguf.gguf_import import open_gguf
from groundup.interop.gguf.gguf_rope import ROPE_FACTORS
from groundup.interop.gguf.split_gguf import SplitGGUFFile
from groundup.interop.gguf.types.gguf_blocks import BLOCK_TYPES
from groundup.interop.weight_map import TensorMap, check_tensors, convert_to_native, expected_shapes
from groundup.model import assign_weights, build_meta_model
from groundup.quantize.layers.quantized_linear import QuantizedLinear
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight
from groundup.quantize.quantizer import quantizable_layers
from groundup.tokenizer import Tokenizer

SCHEMES = {name: QuantizationScheme(bits, 32, True) for name, bits in (("Q8_0", 8), ("Q5_0", 5), ("Q4_0", 4))}


def has_packed_layers(path: Path) -> bool:
    """Whether a .gguf file holds types that stay packed."""
    return bool(SplitGGUFFile(path).types() & SCHEMES.keys())


def load_packed_gguf(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, Tokenizer]:
    """The model, in evaluation mode and frozen, and the tokenizer of a .gguf file. Raises UserError as `load_gguf`."""
    source, config, tokenizer = open_gguf(path)
    model = build_meta_model(config).requires_grad_(False)
    empty = model.state_dict()
    weight_map = list(gguf_weight_map(GGUF_ARCHITECTURES[source.metadata["general.architecture"]], config, list(empty)))
    check_tensors(expected_shapes(weight_map, empty), source, (ROPE_FACTORS,))
    layers = quantizable_layers(model)
    packed = [each for each in weight_map if _stays_packed(each, source, layers)]
    biases = {}
    for each in packed:
        kinds, rows = zip(*(source.packed(name) for name in each.foreign), strict=True)
        scheme, block = SCHEMES[kinds[0]], BLOCK_TYPES[GGMLQuantizationType[kinds[0]]]
        for name, matrix in zip(each.native, each.to_native(list(rows)), strict=True):
            layer = layers[name.removesuffix(".weight")]
            blocks = block.unpack(matrix.reshape(-1, block.block_bytes))
            codes = (blocks.codes.to(torch.int16) + scheme.mid_code).to(torch.uint8).view(layer.out_features, -1)
            scale = blocks.d.view(layer.out_features, -1)
            zero = torch.full_like(scale, scheme.mid_code, dtype=torch.uint8)
            made = QuantizedLinear.from_weight(QuantizedWeight(codes, scale, zero, scheme))
            if layer.bias is not None:
                biases[name.replace(".weight", ".bias")] = made
            model.set_submodule(name.removesuffix(".weight"), made.to(device))
    floats = dict(convert_to_native([each for each in weight_map if each not in packed], source))
    for name, made in biases.items():
        made.bias = floats.pop(name).to(device)
    state = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    assign_weights(
        model, state | {name: tensor.to(device).contiguous() for name, tensor in floats.items()}, source=str(path)
    )
    return model.eval().requires_grad_(False), tokenizer


def _stays_packed(each: TensorMap, source: SplitGGUFFile, layers: dict[str, nn.Linear]) -> bool:
    """Whether the tensors are linear layers' matrices of one type, which differ from the file in the order of rows alone."""
    is_linear = all(name.endswith(".weight") and name.removesuffix(".weight") in layers for name in each.native)
    kinds = {source.type_of(name) for name in each.foreign}
    return is_linear and len(each.foreign) == 1 and len(kinds) == 1 and kinds <= SCHEMES.keys() and _rows(each, layers)


def _rows(each: TensorMap, layers: dict[str, nn.Linear]) -> bool:
    """Whether the map moves rows alone: columns that are numbered keep their numbers."""
    widths = [layers[name.removesuffix(".weight")] for name in each.native]
    numbered = [torch.arange(layer.in_features).expand(layer.out_features, -1) for layer in widths]
    foreign: Sequence[torch.Tensor] = each.to_foreign(numbered)
    return foreign[0].dim() == 2 and bool((foreign[0] == numbered[0][:1]).all())
