"""Models of GGUF files whose packed layers stay packed.

A block of Q8_0, Q5_0 or Q4_0 is a symmetric group of 32, bit for bit. The other types (Q4_1, the k-quants) have scales or
minimums that no integer grid has: their layers are rounded to 8 bits in such groups, which moves a matrix by 0.5% of its norm. Of
normally distributed weights that is 0.5% more squared error for Q4_K, 3% for Q5_K, 9% for Q6_K. Other tensors are read as
`interop.open_model` does.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from gguf import GGMLQuantizationType
from torch import Tensor, nn

from groundup.interop.gguf.architectures import GGUF_ARCHITECTURES
from groundup.interop.gguf.architectures.gguf_architecture import gguf_weight_map
from groundup.interop.gguf.gguf_import import open_gguf
from groundup.interop.gguf.gguf_rope import ROPE_FACTORS
from groundup.interop.gguf.split_gguf import SplitGGUFFile
from groundup.interop.gguf.types.gguf_blocks import BLOCK_TYPES, dequantize_blocks
from groundup.interop.safetensors_files import cast_floating
from groundup.interop.weight_map import TensorMap, check_tensors, convert_to_native, expected_shapes
from groundup.model import assign_weights, build_meta_model
from groundup.model.moe import Experts
from groundup.quantize.layers.quantized_experts import MATRICES, QuantizedExperts
from groundup.quantize.layers.quantized_linear import QuantizedLinear
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, round_to_nearest
from groundup.quantize.quantizer import quantizable_layers
from groundup.tokenizer import Tokenizer

SCHEMES = {name: QuantizationScheme(bits, 32, True) for name, bits in (("Q8_0", 8), ("Q5_0", 5), ("Q4_0", 4))}
"""Types that are read bit for bit."""
ROUNDED = QuantizationScheme(8, 32, True)
PACKED_TYPES = {kind.name for kind in BLOCK_TYPES}
VALUES_AT_ONCE = 1 << 19
"""Values that are rounded at once: they stay in the cache of a core."""


def has_packed_layers(path: Path) -> bool:
    """Whether a .gguf file holds types that stay packed."""
    return bool(SplitGGUFFile(path).types() & PACKED_TYPES)


def load_packed_gguf(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[nn.Module, Tokenizer]:
    """The model, in evaluation mode and frozen, and the tokenizer of a .gguf file; what is not packed as in `load_gguf`."""
    source, config, tokenizer = open_gguf(path, dtype)
    model = build_meta_model(config).requires_grad_(False)
    empty, float32 = model.state_dict(), dict(model.named_buffers())
    weight_map = list(gguf_weight_map(GGUF_ARCHITECTURES[source.metadata["general.architecture"]], config, list(empty)))
    check_tensors(expected_shapes(weight_map, empty), source, (ROPE_FACTORS,))
    places = _places(model)
    packed = [each for each in weight_map if _stays_packed(each, source, places, empty)]
    experts = {each.native[0].rpartition(".")[0] for each in packed if "{}" in places[each.native[0]]}
    whole = {each.native[0] for each in packed}
    for path_of in sorted(experts):
        if all(f"{path_of}.{name}_proj" in whole for name in MATRICES):
            model.set_submodule(path_of, QuantizedExperts(model.get_submodule(path_of)))  # type: ignore[arg-type]
        else:  # stacked experts are packed together or not at all
            packed = [each for each in packed if each.native[0].rpartition(".")[0] != path_of]
    biased: dict[str, list[QuantizedLinear]] = {}
    for each in packed:
        for name, kind, rows in _packed_rows(each, source):
            matrices = [rows] if rows.dim() == 2 else list(rows)
            paths = [places[name].format(number) for number in range(len(matrices))]
            for layer_path, matrix in zip(paths, matrices, strict=True):
                layer = model.get_submodule(layer_path)
                made = QuantizedLinear.from_weight(_weight(kind, matrix))
                if layer.bias is not None:
                    bias = name.replace("_proj", "_bias") if rows.dim() > 2 else name.replace(".weight", ".bias")
                    biased.setdefault(bias, []).append(made)
                model.set_submodule(layer_path, made.to(device))
    floats = {
        name: cast_floating(tensor, torch.float32 if name in float32 else source.dtype)
        for name, tensor in convert_to_native([each for each in weight_map if each not in packed], source)
    }
    for name, layers in biased.items():
        bias = floats.pop(name).to(device)
        for layer, own in zip(layers, [bias] if bias.dim() == 1 else bias, strict=True):
            layer.bias = own.clone()
    state = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    assign_weights(
        model, state | {name: tensor.to(device).contiguous() for name, tensor in floats.items()}, source=str(path)
    )
    return model.eval().requires_grad_(False), tokenizer


def _places(model: nn.Module) -> dict[str, str]:
    """The path of the layer of a matrix by its name; {} in it stands for the number of an expert."""
    places = {f"{name}.weight": name for name in quantizable_layers(model)}
    for path, module in model.named_modules():
        if type(module) is Experts:
            places |= {f"{path}.{name}_proj": f"{path}.{name}_proj.{{}}" for name in MATRICES}
    return places


def _stays_packed(each: TensorMap, source: SplitGGUFFile, places: dict[str, str], empty: dict[str, Tensor]) -> bool:
    """Whether the tensors are layers' matrices of a packed type, which differ from the file in the order of rows alone."""
    if (
        len(each.foreign) != 1
        or not places.keys() >= set(each.native)
        or source.type_of(each.foreign[0]) not in PACKED_TYPES
    ):
        return False
    numbered = [
        torch.arange(empty[name].shape[-1], dtype=torch.int32).expand(empty[name].shape) for name in each.native
    ]
    foreign = each.to_foreign(numbered)[0]
    row = numbered[0].flatten(0, -2)[:1]
    return foreign.dim() == numbered[0].dim() and foreign.shape[-1] == row.shape[1] and bool((foreign == row).all())


def _packed_rows(each: TensorMap, source: SplitGGUFFile) -> Iterator[tuple[str, str, Tensor]]:
    """Name, type and bytes (... rows bytes) of each native matrix."""
    kind, rows = source.packed(each.foreign[0])
    for name, matrix in zip(each.native, each.to_native([rows]), strict=True):
        yield name, kind, matrix


def _weight(kind: str, rows: Tensor) -> QuantizedWeight:
    """The weight of a matrix from the bytes of its rows (out bytes)."""
    block, scheme = BLOCK_TYPES[GGMLQuantizationType[kind]], SCHEMES.get(kind)
    if scheme is not None:
        blocks = block.unpack(rows.reshape(-1, block.block_bytes))
        codes = (blocks.codes.to(torch.int16) + scheme.mid_code).to(torch.uint8).view(len(rows), -1)
        scale = blocks.d.view(len(rows), -1)
        return QuantizedWeight(codes, scale, torch.full_like(scale, scheme.mid_code, dtype=torch.uint8), scheme)
    step = max(1, VALUES_AT_ONCE // (rows.shape[1] // block.block_bytes * block.block))
    parts = [round_to_nearest(dequantize_blocks(part.contiguous(), block), ROUNDED) for part in rows.split(step)]
    codes, scale, zero = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "scale", "zero"))
    return QuantizedWeight(codes, scale, zero, ROUNDED)
