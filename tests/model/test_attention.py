"""Attention kernels against a textbook implementation in loops."""

import math
from functools import partial

import pytest
import torch

from groundup.model.attention import SinkAttention, eager_attention, sdpa_attention, softcap, softcap_attention
from groundup.model.attention_mask import AttentionMask, build_mask

SCALE = 0.3


def textbook_attention(query, key, value, attends, cap=lambda product: product):
    """One token of one head after the other."""
    out = torch.zeros_like(query)
    group = query.shape[1] // key.shape[1]
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in query.shape[:3])).tolist():
        g = h // group
        products = [float(cap(SCALE * query[b, h, t] @ key[b, g, s])) for s in range(key.shape[2])]
        weights = [math.exp(p) if attends(b, t, s) else 0.0 for s, p in enumerate(products)]
        out[b, h, t] = sum(w / sum(weights) * value[b, g, s] for s, w in enumerate(weights))
    return out


DOCUMENTS = torch.tensor([[0, 0, 1, 1, 1], [4, 4, 4, 4, 5]])
MASKS = {
    "all": ({"causal": False}, lambda b, t, s: True),
    "causal": ({"causal": True}, lambda b, t, s: s <= t),
    "window": ({"causal": True, "window": 2}, lambda b, t, s: t - 2 < s <= t),
    "both ways": ({"causal": False, "window": 2}, lambda b, t, s: abs(t - s) < 2),
    "documents": (
        {"causal": True, "document_ids": DOCUMENTS},
        lambda b, t, s: s <= t and DOCUMENTS[b, t] == DOCUMENTS[b, s],
    ),
}


@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("name", MASKS)
def test_all_kernels_equal_the_textbook(name, heads):
    settings, attends = MASKS[name]
    query = torch.randn(2, heads[0], 5, 6, dtype=torch.float64)
    key, value = torch.randn(2, 2, heads[1], 5, 6, dtype=torch.float64)
    mask = build_mask(5, 5, query.device, **settings)
    expected = textbook_attention(query, key, value, attends)
    torch.testing.assert_close(eager_attention(query, key, value, mask, scale=SCALE), expected)
    torch.testing.assert_close(sdpa_attention(query, key, value, mask, scale=SCALE), expected)
    cap = partial(softcap, limit=0.4)
    capped = textbook_attention(query, key, value, attends, cap)
    torch.testing.assert_close(softcap_attention(query, key, value, mask, scale=SCALE, cap=cap), capped)
    assert (capped - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", MASKS)
def test_a_sink_is_a_key_without_a_value(name):
    settings, attends = MASKS[name]
    query, key, value = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
    attention = SinkAttention(4, SCALE).double()
    torch.nn.init.normal_(attention.sinks).requires_grad_(False)
    found = attention(query, key, value, build_mask(5, 5, query.device, **settings))
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in (2, 4, 5))).tolist():
        visible = [s for s in range(5) if attends(b, t, s)]
        weights = [math.exp(float(SCALE * query[b, h, t] @ key[b, h, s])) for s in visible]
        total = sum(weights) + math.exp(float(attention.sinks[h]))
        expected = sum(w / total * value[b, h, s] for w, s in zip(weights, visible, strict=True))
        torch.testing.assert_close(found[b, h, t], expected)


def test_query_offset_of_causal_masks():
    query, key, value = torch.randn(3, 1, 2, 7, 4)
    full = eager_attention(query, key, value, build_mask(7, 7, query.device, causal=True), scale=SCALE)
    for offset in (1, 3, 6):
        mask = build_mask(7 - offset, 7, query.device, causal=True)
        for form in (sdpa_attention, eager_attention):
            torch.testing.assert_close(form(query[:, :, offset:], key, value, mask, scale=SCALE), full[:, :, offset:])


@pytest.mark.parametrize("length", [16, 600])
def test_bfloat16_on_cpu_is_near_float32(length):
    query, key, value = torch.randn(3, 1, 2, length, 16)
    mask = AttentionMask(causal=True)
    expected = sdpa_attention(query, key, value, mask, scale=0.25)
    found = sdpa_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask, scale=0.25)
    assert (found.float() - expected).abs().max() < 0.03


def test_gradients_of_eager_and_sdpa_are_equal():
    tensors = [
        x.clone().requires_grad_() for x in (torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8))
    ]
    mask = build_mask(6, 6, tensors[0].device, causal=True, window=3)
    both = [
        torch.autograd.grad(form(*tensors, mask, scale=SCALE).square().sum(), tensors)
        for form in (sdpa_attention, eager_attention)
    ]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)


def test_softcap():
    assert torch.allclose(softcap(torch.tensor([1e-3, 100.0, -100.0]), 5.0), torch.tensor([1e-3, 5.0, -5.0]))
