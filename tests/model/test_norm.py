"""Norms against their formulas; float32 inside."""

import pytest
import torch

from groundup.model.norm import RMSNorm, ZeroCenteredRMSNorm, build_norm, rms_norm


@pytest.mark.parametrize("part", [RMSNorm, ZeroCenteredRMSNorm])
def test_rms_norm_formula(part):
    norm = part(6, 1e-3)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6) * 5
    scale = norm.weight + (1 if part is ZeroCenteredRMSNorm else 0)
    expected = x / (x.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt() * scale
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("part", [RMSNorm, ZeroCenteredRMSNorm])
def test_initial_norms_normalize_and_keep_the_dtype(part):
    norm = part(64, 1e-6)
    norm.reset_parameters()
    x = (torch.randn(4, 64) * 100).to(torch.bfloat16)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().square().mean(dim=-1), torch.ones(4), rtol=2e-2, atol=0)


def test_zero_centered_weights_in_half_precision():
    norm = ZeroCenteredRMSNorm(2, 0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0**-9, 0.0]))
    y = norm.to(torch.bfloat16)(torch.ones(1, 2))  # float32 in: the weight's last bit must show
    assert y[0, 0] > y[0, 1]


def test_layernorm_bias(config):
    assert build_norm(config(norm="layernorm"), 4).bias is None
    assert build_norm(config(norm="layernorm", norm_bias=True), 4).bias is not None


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 4, 64)])
def test_cpu_gradient_equals_the_formula(shape):
    torch.manual_seed(0)
    x, weight = (torch.randn(shape) * 3 + 1).requires_grad_(), torch.randn(shape[-1:]).requires_grad_()
    upstream = torch.randn(shape) + 0.5
    found = torch.autograd.grad(rms_norm(x, weight, 1e-5), (x, weight), upstream)
    formula = x.double() / (x.double().square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight
    for ours, expected in zip(found, torch.autograd.grad(formula, (x, weight), upstream.double()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_is_rounded_once():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 32), torch.rand(32) + 0.5
    narrow, scale = x.to(torch.bfloat16).requires_grad_(), weight.to(torch.bfloat16).requires_grad_()
    ours = rms_norm(narrow, scale, 1e-5)
    exact = torch.nn.functional.rms_norm(narrow.double(), (32,), scale.double(), 1e-5)
    torch.testing.assert_close(ours, exact.to(torch.bfloat16), rtol=2**-7, atol=0)
    gradients = [torch.autograd.grad(y, (narrow, scale), torch.ones_like(y)) for y in (ours, exact)]
    for found, expected in zip(*gradients, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)
