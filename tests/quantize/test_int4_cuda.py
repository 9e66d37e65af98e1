"""The layer for GPUs against layers that dequantize: on a CPU with the kernel's layout in plain operations."""

import pytest
import torch

from groundup.quantize import QuantizationScheme, QuantizedLinear
from groundup.quantize.kernels import int4_cuda
from groundup.quantize.kernels.int4_cuda import CudaInt4Linear, fits_kernel, runs_on_cuda
from groundup.quantize.quantization_grid import round_to_nearest

SCHEMES = [
    QuantizationScheme(4, 64),
    QuantizationScheme(4, 128, False),
    QuantizationScheme(3, 32, False),
    QuantizationScheme(4, -1),
]


def quantized_layer(scheme, device="cpu"):
    torch.manual_seed(0)
    weight = round_to_nearest(torch.randn(44, 256), scheme)
    return QuantizedLinear.from_weight(weight, torch.randn(44)).to(device)


def pack_plainly(pairs, tiles):
    assert pairs.dtype is torch.uint8
    assert pairs.shape[1] * 2 % (16 * tiles) == pairs.shape[0] % 8 == 0
    return pairs


def multiply_plainly(x, pairs, group, grid):
    """What the kernel computes: the high half of a byte is the code of the first of two columns."""
    codes = torch.stack([pairs >> 4, pairs & 15], dim=-1).flatten(1).unflatten(1, (-1, group)).float()
    scale, offset = grid.float().transpose(0, 1).unbind(-1)
    weight = ((codes - 8) * scale[..., None] + offset[..., None]).flatten(1)
    return (x.float() @ weight.T).to(x.dtype)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_products_equal_those_of_the_dequantized_weight(scheme, monkeypatch):
    monkeypatch.setattr(torch.ops.aten, "_convert_weight_to_int4pack", pack_plainly)
    monkeypatch.setattr(torch.ops.aten, "_weight_int4pack_mm", multiply_plainly)
    exact = quantized_layer(scheme)
    assert fits_kernel(exact)
    layer, x = CudaInt4Linear(exact), torch.randn(2, 3, 256)
    found, expected = layer(x), exact(x)
    assert (found - expected).norm() / expected.norm() < 0.006  # of bfloat16
    assert (layer.dequantize() - exact.dequantize()).norm() / exact.dequantize().norm() < 0.004
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_sizes_of_the_kernel_itself():
    """Its shape rules, which PyTorch knows without a GPU."""
    assert CudaInt4Linear(quantized_layer(SCHEMES[0], "meta")).packed.shape == (6, 2, 32, 4)


def test_other_layers_are_refused():
    assert not runs_on_cuda(quantized_layer(SCHEMES[0]))
    assert not fits_kernel(QuantizedLinear(256, 8, QuantizationScheme(8, 64)))
    assert not fits_kernel(QuantizedLinear(192, 8, QuantizationScheme(4, 64)))
    assert not fits_kernel(QuantizedLinear(256, 8, QuantizationScheme(4, 16)))


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_kernel(scheme):
    exact = quantized_layer(scheme, "cuda")
    layer, x = int4_cuda.CudaInt4Linear(exact), torch.randn(3, 256, device="cuda")
    assert (layer(x) - exact(x)).norm() / exact(x).norm() < 0.006
