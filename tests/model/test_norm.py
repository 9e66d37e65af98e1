"""Norms: what their formulas say, in float32 inside whatever the dtype outside."""

import pytest
import torch

from groundup.model.norm import RMSNorm, ZeroCenteredRMSNorm, build_norm


@pytest.mark.parametrize("part", [RMSNorm, ZeroCenteredRMSNorm])
def test_rms_norm_is_its_formula(part):
    norm = part(6, 1e-3)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6) * 5
    scale = norm.weight + (1 if part is ZeroCenteredRMSNorm else 0)
    expected = x / (x.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt() * scale
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("part", [RMSNorm, ZeroCenteredRMSNorm])
def test_fresh_norms_only_normalise_and_keep_the_dtype(part):
    norm = part(64, 1e-6)
    norm.reset_parameters()
    x = (torch.randn(4, 64) * 100).to(torch.bfloat16)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().square().mean(dim=-1), torch.ones(4), rtol=2e-2, atol=0)


def test_zero_centered_weights_keep_their_precision_in_half_precision():
    norm = ZeroCenteredRMSNorm(2, 0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0**-9, 0.0]))
    y = norm.to(torch.bfloat16)(torch.ones(1, 2))  # float32 in: the weight's last bit must show
    assert y[0, 0] > y[0, 1]


def test_layernorm_has_a_bias_when_asked(config):
    assert build_norm(config(norm="layernorm"), 4).bias is None
    assert build_norm(config(norm="layernorm", norm_bias=True), 4).bias is not None
