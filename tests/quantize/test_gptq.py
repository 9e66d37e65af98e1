"""GPTQ against optimal brain quantization (OBQ), column by column."""

import pytest
import torch

from groundup.quantize.calibration import InputStats, output_error
from groundup.quantize.methods.gptq import gptq, inverse_cholesky
from groundup.quantize.quantization_grid import QuantizationScheme, find_params, round_to_nearest


def correlated(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inputs with most of their energy in a few directions."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.logspace(0, -2, width)
    return torch.randn(rows, width, generator=generator) @ mixing


def obq(weight, hessian, scheme, damping):
    """Round the first free column, correct the others by the inverse of what is left of H, drop the
    column.
    """
    weight = weight.clone()
    width = weight.shape[1]
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(width, dtype=hessian.dtype)
    codes = torch.empty_like(weight, dtype=torch.uint8)
    for column in range(width):
        if column % scheme.group_size == 0:
            scale, zero = find_params(weight[:, column : column + scheme.group_size], scheme)
        inverse = torch.linalg.inv(damped[column:, column:])
        code = ((weight[:, column] / scale[:, 0]).round() + zero[:, 0]).clamp(0, scheme.max_code)
        error = weight[:, column] - (code - zero[:, 0]) * scale[:, 0]
        weight[:, column:] -= error[:, None] / inverse[0, 0] * inverse[0]
        codes[:, column] = code.to(torch.uint8)
    return codes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("width", "group_size"), [(64, 16), (288, 96), (160, 32)])
def test_gptq_equals_obq_with_fixed_order(width, group_size, symmetric):
    inputs = correlated(2000, width).double()
    hessian = 2 * inputs.T @ inputs / len(inputs)
    weight = torch.randn(12, width, generator=torch.Generator().manual_seed(1)).double()
    scheme = QuantizationScheme(4, group_size, symmetric)
    assert torch.equal(gptq(weight, hessian, scheme).codes, obq(weight, hessian, scheme, 0.01))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(
    "scheme",
    [QuantizationScheme(4, 32, True), QuantizationScheme(4, 32, False), QuantizationScheme(8, 32, True)],
    ids=str,
)
def test_gptq_output_error_is_below_rtn(scheme, act_order):
    inputs = correlated(4000, 96)
    moments = InputStats(96)
    moments.add(inputs)
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(2))
    ours = gptq(weight, moments.hessian, scheme, act_order=act_order).dequantize()
    nearest = round_to_nearest(weight, scheme).dequantize()
    error = ((inputs @ (ours - weight).T) ** 2).sum() / ((inputs @ weight.T) ** 2).sum()
    rtn = ((inputs @ (nearest - weight).T) ** 2).sum() / ((inputs @ weight.T) ** 2).sum()
    assert error < rtn / 2
    assert output_error(weight, ours, moments.hessian) == pytest.approx(error.item(), rel=1e-3)


def test_gptq_of_uncorrelated_inputs_equals_rtn():
    weight = torch.randn(8, 64)
    hessian = torch.diag(torch.rand(64) + 0.5)
    assert torch.equal(
        gptq(weight, hessian, QuantizationScheme(4, 32)).codes,
        round_to_nearest(weight, QuantizationScheme(4, 32)).codes,
    )


def test_gptq_of_inactive_inputs_equals_rtn():
    inputs = correlated(500, 32)
    inputs[:, 5] = 0
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    scheme = QuantizationScheme(8, 32)
    found = gptq(weight, inputs.T @ inputs, scheme).dequantize()
    step = round_to_nearest(weight, scheme).scale.float()
    assert ((found[:, 5] - weight[:, 5]).abs() <= 1.5 * step[:, 0]).all()


def test_gptq_with_fewer_inputs_than_columns():
    inputs = correlated(10, 64)
    found = gptq(torch.randn(4, 64), inputs.T @ inputs, QuantizationScheme(4, 32))
    assert torch.isfinite(found.dequantize()).all()


def test_inverse_cholesky():
    inputs = correlated(300, 24).double()
    hessian = inputs.T @ inputs
    factor = inverse_cholesky(hessian, 0.05)
    damped = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(24)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(24).double(), rtol=0, atol=1e-6)
    assert torch.equal(factor, factor.triu())


def test_input_stats_are_independent_of_batching():
    inputs = correlated(101, 16)
    whole, parts = InputStats(16), InputStats(16)
    whole.add(inputs)
    for part in inputs.split([1, 40, 60]):
        parts.add(part[None])
    torch.testing.assert_close(whole.hessian, parts.hessian)
    torch.testing.assert_close(whole.mean_abs, parts.mean_abs)
    torch.testing.assert_close(whole.hessian, 2 * inputs.T @ inputs / 101)
