"""A quantized model made ready for inference: the fastest layer for each weight, one copy of the weights, memory given back."""

import torch
from torch import Tensor, nn

from groundup.artifacts.freed_memory import release_freed_memory
from groundup.model.embedding import Embedding
from groundup.model.head import TiedHead, UntiedHead
from groundup.model.token_rows import PackedTable
from groundup.quantize.bit_packing import pack_codes
from groundup.quantize.kernels.int4_cpu import GROUP_SIZES, PACKED_AT_ONCE, Int4Linear, is_supported, stored_bits
from groundup.quantize.kernels.int4_cuda import CudaInt4Linear, runs_on_cuda
from groundup.quantize.layers.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme, round_to_nearest

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of `torch.cpu.get_capabilities` for x86 and ARM."""
FEW_BITS = 5
"""Mean bits of a model's layers up to which its token matrices have 6 bits.

KL to the float model, SmolLM2-135M: embedding and head alone in 8 bits 0.0005, in 6 bits 0.012; layers in 4 bits 0.14 to 0.18.
"""
SMALL_TENSOR = 1 << 20


def use_kernels(model: nn.Module) -> nn.Module:
    """Replace the layers that a kernel of this machine supports, one at a time, in place. Returns the model.

    Other layers dequantize and multiply. For inference only: such a model cannot be saved or exported.
    """
    layers = quantized_layers(model)
    weights = sum(layer.in_features * layer.out_features for layer in layers.values())
    bits = sum(layer.in_features * layer.out_features * layer.scheme.bits for layer in layers.values())
    for name, layer in layers.items():
        weights_only = layer.scheme.values == "integer" and layer.scheme.input_bits is None
        if weights_only and is_supported(layer):
            model.set_submodule(name, Int4Linear(layer))
        elif weights_only and runs_on_cuda(layer):
            model.set_submodule(name, CudaInt4Linear(layer))
    pack_token_matrices(model, 6 if weights and bits / weights <= FEW_BITS else 8)
    _leave_files(model)
    model.is_rounded = True  # type: ignore[assignment]  # no fingerprint of a base model fits it: see base_fingerprint.py
    release_freed_memory()
    return model


def pack_token_matrices(model: nn.Module, bits: int = 8) -> None:
    """Round the token embedding and the output head to groups of 8 or 6 bits, where a kernel supports that, in place.

    They are a fifth of a model of 135M weights, and the head is read whole for each token. Matrices with trained rows stay.
    """
    embeddings = [module for module in model.modules() if isinstance(module, Embedding)]
    heads = [module for module in model.modules() if isinstance(module, TiedHead | UntiedHead)]
    for embedding in embeddings:
        old = embedding.tokens
        if type(old) is nn.Embedding and (table := _pack_table(old.weight, bits)) is not None:
            embedding.tokens = table  # type: ignore[assignment]
            for head in heads:
                if head.table is old:
                    head.pack(table)
    for head in heads:
        own = type(head) is UntiedHead and type(head.weight) is nn.Parameter
        if own and (table := _pack_table(head.weight, bits)) is not None:
            head.pack(table)


def _pack_table(weight: Tensor, bits: int) -> PackedTable | None:
    rows, width = weight.shape
    size = next((size for size in GROUP_SIZES if width % size == 0), None)
    if weight.device.type != "cpu" or size is None:
        return None
    scheme = QuantizationScheme(stored_bits(bits), size)
    layer = QuantizedLinear(width, rows, scheme)
    layer.float_dtype = weight.dtype
    for begin in range(0, rows, PACKED_AT_ONCE):
        part = round_to_nearest(weight.detach()[begin : begin + PACKED_AT_ONCE], scheme)
        layer.packed[begin : begin + PACKED_AT_ONCE] = pack_codes(part.codes, scheme.bits, torch.uint8)
        layer.scale[begin : begin + PACKED_AT_ONCE] = part.scale
    return PackedTable(Int4Linear(layer)) if is_supported(layer) else None


def _leave_files(model: nn.Module) -> None:
    """Copy the small tensors that are left, such as norms: they would keep pages of a mapped file in memory."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.nbytes <= SMALL_TENSOR and not tensor.is_meta:
            tensor.data = tensor.data.clone()


def inference_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes with it, for what is not quantized; else None: as in the file."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return torch.bfloat16 if any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS) else None
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None


def fast_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's weights where its device computes fast with it, else float32."""
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return weight.dtype
    return weight.dtype if weight.dtype == inference_dtype(weight.device) else torch.float32
