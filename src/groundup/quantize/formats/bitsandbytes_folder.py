"""Hugging Face folders in NF4, as bitsandbytes writes them: float models, rounded matrix by matrix while they are written.

Transformers opens them with bitsandbytes, also on a CPU. Blocks run along rows, so that matrices are rounded in the shapes of the
file: those that a family joins (Phi-3) are joined first.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from groundup.interop.families.select_family import select_family
from groundup.interop.fold_scales import fold_scales
from groundup.interop.huggingface_model import DTYPES, write_config_files
from groundup.interop.safetensors_files import cast_floating, write_safetensors
from groundup.interop.weight_map import TensorMap
from groundup.quantize.formats.bitsandbytes_format import NF4_CONFIG, nf4_tensors
from groundup.quantize.formats.packed_source import WEIGHT_SUFFIX
from groundup.quantize.layers.nf4 import BLOCK, NF4Weight, quantize_nf4
from groundup.tokenizer import Tokenizer

READ_BY_NAME = {"t5": ".wo.weight", "mt5": ".wo.weight", "umt5": ".wo.weight"}
"""Family -> end of the names of layers whose `weight` transformers reads itself: they stay in floating point."""


def export_nf4(
    model: nn.Module, tokenizer: Tokenizer | None, out: Path, dtype: str, rounded: Mapping[str, NF4Weight] | None = None
) -> list[Path]:
    """Write a float model with the linear layers of its blocks in NF4. Returns the files written.

    Args:
        rounded: weights by the name of the layer that are in NF4 already: those that the file holds as they are.

    Layers that a file holds transposed, and experts, stay in `dtype`. Raises UserError if no family can represent the model.
    """
    config, weights = fold_scales(model)
    family = select_family(config)
    tensor_maps = list(family.weight_map(config, list(weights)))
    linears = {
        name + WEIGHT_SUFFIX
        for name, module in model.named_modules()
        if type(module) is nn.Linear and "blocks." in name
    }
    floats = READ_BY_NAME.get(family.name, "-")
    packed = {
        name
        for tensor_map in tensor_maps
        if linears.issuperset(tensor_map.native) and _moves_rows(tensor_map, weights)
        for name in tensor_map.foreign
        if not name.endswith(floats)
    }
    skipped = [
        name.removesuffix(WEIGHT_SUFFIX)
        for tensor_map in tensor_maps
        for name in tensor_map.foreign
        if name.endswith(WEIGHT_SUFFIX) and name not in packed and weights[tensor_map.native[0]].ndim == 2
    ]
    out.mkdir(parents=True, exist_ok=True)
    rounded = {name + WEIGHT_SUFFIX: weight for name, weight in (rounded or {}).items()}
    files = write_safetensors(_tensors(tensor_maps, weights, packed, DTYPES[dtype], rounded), out)
    described = NF4_CONFIG | {"bnb_4bit_compute_dtype": dtype, "llm_int8_skip_modules": skipped or ["lm_head"]}
    return [*files, *write_config_files(config, tokenizer, out, dtype, {"quantization_config": described})]


def _moves_rows(tensor_map: TensorMap, weights: Mapping[str, Tensor]) -> bool:
    """Whether the foreign matrices have the rows of ours, whole."""
    if any(weights[name].ndim != 2 or weights[name].numel() % BLOCK for name in tensor_map.native):
        return False
    rows = [torch.arange(len(weights[name]))[:, None].expand_as(weights[name]) for name in tensor_map.native]
    return all(bool((matrix == matrix[:, :1]).all()) for matrix in tensor_map.to_foreign(rows))


def _tensors(
    tensor_maps: list[TensorMap],
    weights: Mapping[str, Tensor],
    packed: set[str],
    dtype: torch.dtype,
    rounded: Mapping[str, NF4Weight],
) -> Iterator[tuple[str, Tensor]]:
    for tensor_map in tensor_maps:
        tensors = tensor_map.to_foreign([weights[name].detach() for name in tensor_map.native])
        for name, tensor in zip(tensor_map.foreign, tensors, strict=True):
            if name not in packed:
                yield name, cast_floating(tensor, dtype).cpu()
                continue
            weight = rounded.get(tensor_map.native[0])
            if weight is None or not torch.equal(weight.dequantize(), tensor.float()):
                weight = quantize_nf4(tensor.cpu())
            parts = nf4_tensors(weight, dtype)
            yield from ((name.removesuffix(WEIGHT_SUFFIX) + f".{part}", value) for part, value in parts.items())
