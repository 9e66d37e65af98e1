"""Quantization grid, rounding to nearest, packing."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from groundup.artifacts.errors import UserError
from groundup.quantize.bit_packing import pack_codes, unpack_codes
from groundup.quantize.quantization_grid import (
    QuantizationScheme,
    QuantizedWeight,
    dequantize_weight,
    find_params,
    quantize_weight,
    round_to_nearest,
)

SCHEMES = [QuantizationScheme(bits, 16, symmetric) for bits in (2, 3, 4, 5, 8) for symmetric in (True, False)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rtn_picks_the_nearest_grid_value(scheme):
    torch.manual_seed(0)
    weight = torch.randn(6, 48)
    found = round_to_nearest(weight, scheme)
    values = torch.arange(scheme.max_code + 1)[None, None] - found.zero[..., None].float()
    values = (values * found.scale[..., None].float()).repeat_interleave(16, 1)  # (out, in, codes)
    nearest = (values - weight[..., None]).abs().amin(-1)
    torch.testing.assert_close((found.dequantize() - weight).abs(), nearest, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rtn_error_bound(scheme):
    torch.manual_seed(1)
    weight = torch.randn(32, 64)
    found = round_to_nearest(weight, scheme)
    errors = (found.dequantize() - weight).abs() / found.scale.float().repeat_interleave(16, 1)
    at_end = (found.codes == 0) | (found.codes == scheme.max_code)  # where the grid stops half a step too early
    assert (errors[~at_end] <= 0.501).all()
    assert (errors <= 1.1).all() or scheme.bits < 4


def test_asymmetric_grid_of_one_sided_weights_keeps_zero():
    weight = torch.rand(4, 32) + 0.1
    weight[:, 0] = 0
    errors = {
        s: (round_to_nearest(weight, QuantizationScheme(4, 32, s)).dequantize() - weight).square().mean()
        for s in (True, False)
    }
    assert errors[False] < errors[True] / 3
    assert (round_to_nearest(weight, QuantizationScheme(4, 32, False)).dequantize()[:, 0] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_extreme_groups(symmetric):
    weight = torch.cat([torch.zeros(2, 16), torch.full((2, 16), 1e-12), torch.full((2, 16), 1e9)], 1)
    found = round_to_nearest(weight, QuantizationScheme(4, 16, symmetric)).dequantize()
    assert torch.isfinite(found).all()
    assert (found[:, :32] == 0).all()


def test_non_finite_weights_are_refused():
    with pytest.raises(UserError, match="not finite"):
        round_to_nearest(torch.tensor([[float("nan")] * 16]), QuantizationScheme(4, 16))


@given(seed=st.integers(0, 10_000), scheme=st.sampled_from(SCHEMES), spread=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_quantizing_grid_values_is_exact(seed, scheme, spread):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 32, generator=generator) * spread
    found = round_to_nearest(weight, scheme)
    scale, zero = found.scale.float(), found.zero.float()
    weight = dequantize_weight(found.codes, scale, zero, scheme)
    assert torch.equal(quantize_weight(weight, scale, zero, scheme), found.codes)


def test_scales_are_exact_in_float16():
    scale, zero = find_params(torch.randn(8, 64), QuantizationScheme(4, 16, False))
    assert torch.equal(scale, scale.half().float())
    assert torch.equal(zero, zero.round())


@given(
    bits=st.integers(1, 8),
    word=st.sampled_from([torch.uint8, torch.int32]),
    dim=st.sampled_from([0, 1]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_pack_unpack_round_trip(bits, word, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (32, 64), generator=generator, dtype=torch.uint8)
    packed = pack_codes(codes, bits, word, dim)
    assert packed.dtype is word
    assert packed.numel() * packed.element_size() * 8 == codes.numel() * bits
    assert torch.equal(unpack_codes(packed, bits, dim), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_column_of_codes_fills_words(bits):
    codes = (torch.arange(32) % 2**bits).to(torch.uint8)[:, None]
    assert torch.equal(unpack_codes(pack_codes(codes, bits, torch.int32, 0), bits, 0), codes)


@given(bits=st.integers(1, 8), width=st.integers(1, 40), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_packed_codes_are_one_stream_of_bits(bits, width, seed):
    codes = torch.randint(0, 2**bits, (3, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = pack_codes(codes, bits, torch.uint8)
    for row, found in zip(codes.tolist(), packed.tolist(), strict=True):
        stream = sum(code << bits * index for index, code in enumerate(row))
        assert bytes(found) == stream.to_bytes(-(-width * bits // 8), "little")
    assert torch.equal(unpack_codes(packed, bits, count=width), codes)


@pytest.mark.parametrize("group_size", [-1, 128, 64, 40])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_last_group_of_a_row_may_be_shorter(group_size, symmetric):
    weight = torch.randn(5, 176, generator=torch.Generator().manual_seed(3))
    found = round_to_nearest(weight, QuantizationScheme(4, group_size, symmetric))
    size = 176 if group_size < 0 else group_size
    parts = [round_to_nearest(part, QuantizationScheme(4, part.shape[1], symmetric)) for part in weight.split(size, 1)]
    assert torch.equal(found.dequantize(), torch.cat([part.dequantize() for part in parts], 1))
    assert found.scale.shape == (5, len(parts))
    equal = found.with_equal_groups()
    assert equal.codes.shape[1] % equal.scheme.group_size == 0
    assert torch.equal(equal.dequantize(), found.dequantize())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_searched_ranges_have_a_smaller_weighted_error(scheme):
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(8, 64, generator=generator), torch.rand(64, generator=generator) ** 4
    errors = [
        ((round_to_nearest(weight, scheme, each).dequantize() - weight).square() * importance).sum(1)
        for each in (None, importance)
    ]
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < errors[0].sum() * (0.95 if scheme.bits < 8 else 1)


def test_groups_by_index():
    weight = round_to_nearest(torch.randn(4, 48), QuantizationScheme(4, 16))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    index = (torch.arange(48) // 16)[order].int()
    moved = QuantizedWeight(weight.codes[:, order], weight.scale, weight.zero, weight.scheme, index)
    assert torch.equal(moved.dequantize(), weight.dequantize()[:, order])


@pytest.mark.parametrize(("bits", "group_size"), [(1, 64), (9, 64), (4, 0), (4, -2)])
def test_impossible_schemes_are_refused(bits, group_size):
    with pytest.raises(UserError, match="expected"):
        QuantizationScheme(bits, group_size)


def test_pack_order():
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]])
    assert pack_codes(codes, 4, torch.uint8).tolist() == [[0x21, 0x43, 0x65, 0xF7]]
    assert pack_codes(codes, 4, torch.int32).item() == 0xF7654321 - 2**32
