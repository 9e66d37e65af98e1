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
            group = slice(column, column + scheme.group_size)
            scale, zero = find_params(weight[:, group], scheme, hessian.diagonal()[group])
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
    found = gptq(weight, hessian, scheme, act_order=False)
    assert torch.equal(found.codes, obq(weight, hessian, scheme, 0.05))


def test_act_order_is_the_same_method_on_permuted_columns():
    inputs = correlated(2000, 96).double()
    hessian = 2 * inputs.T @ inputs / len(inputs)
    weight = torch.randn(12, 96, generator=torch.Generator().manual_seed(1)).double()
    scheme = QuantizationScheme(4, 32, False)
    found = gptq(weight, hessian, scheme, act_order=True)
    scale, zero = find_params(weight, scheme, hessian.diagonal())
    assert torch.equal(found.scale, scale.half())
    order = hessian.diagonal().argsort(descending=True)
    work, factor = weight[:, order].clone(), inverse_cholesky(hessian[order][:, order], 0.05)
    for step, column in enumerate(order.tolist()):
        s, z = scale[:, column // 32].double(), zero[:, column // 32].double()
        code = ((work[:, step] / s).round() + z).clamp(0, 15)
        assert torch.equal(found.codes[:, column], code.to(torch.uint8))
        error = (work[:, step] - (code - z) * s) / factor[step, step]
        work[:, step:] -= error[:, None] * factor[step, step:]


def test_a_matrix_may_be_quantized_with_others_of_the_same_inputs():
    moments = InputStats(64)
    moments.add(correlated(1000, 64))
    parts = torch.randn(24, 64, generator=torch.Generator().manual_seed(4)).split([8, 16])
    together = gptq(torch.cat(parts), moments.hessian, QuantizationScheme(4, 32)).split_rows([8, 16])
    for part, found in zip(parts, together, strict=True):
        alone = gptq(part, moments.hessian, QuantizationScheme(4, 32))
        torch.testing.assert_close(found.dequantize(), alone.dequantize())


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
    ours = gptq(weight, moments.hessian, scheme, damp_percent=0.01, act_order=act_order).dequantize()
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
        round_to_nearest(weight, QuantizationScheme(4, 32), hessian.diagonal()).codes,
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
