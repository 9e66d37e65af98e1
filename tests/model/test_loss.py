"""The chunked loss against an unchunked reference, in value and gradients."""

import threading
from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.model.loss import IGNORE_INDEX, VocabShard, chunk_loss_compiled, linear_cross_entropy


def reference_loss(hidden, weight, labels, *, bias=None, softcap=None, z_loss=0.0):
    logits = F.linear(hidden, weight, bias).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    predicted = labels != IGNORE_INDEX
    return F.cross_entropy(logits, labels) + z_loss * logits.logsumexp(-1)[predicted].square().mean()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_equals_the_reference_loss(data):
    tokens, width, vocabulary = (data.draw(st.integers(low, high)) for low, high in ((1, 12), (1, 6), (2, 9)))
    options = {"softcap": data.draw(st.none() | st.floats(0.5, 30)), "z_loss": data.draw(st.sampled_from([0.0, 0.1]))}
    torch.manual_seed(data.draw(st.integers(0, 999)))
    hidden, weight, bias = torch.randn(tokens, width), torch.randn(vocabulary, width), torch.randn(vocabulary)
    labels = torch.randint(0, vocabulary, (tokens,)).masked_fill(torch.rand(tokens) < 0.3, IGNORE_INDEX)
    labels[0] = 0
    bias = bias if data.draw(st.booleans()) else None
    inputs = [x.requires_grad_() for x in (hidden, weight, bias) if x is not None]
    chunk, compiled = data.draw(st.integers(1, 13)), data.draw(st.booleans())
    with patch("groundup.model.loss._compiled_chunk_loss", lambda: chunk_loss_compiled):  # without compiling
        ours = linear_cross_entropy(hidden, weight, labels, bias=bias, chunk_size=chunk, compiled=compiled, **options)
    reference = reference_loss(hidden, weight, labels, bias=bias, **options)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
    for found, expected in zip(
        torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * reference, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_no_gradients_of_frozen_weights():
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    linear_cross_entropy(hidden, weight, torch.arange(5)).backward()
    assert hidden.grad is not None
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight.requires_grad_(), torch.arange(5))
    assert not loss.requires_grad


def test_no_labels_give_zero_loss():
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(7, 3)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORE_INDEX))
    loss.backward()
    assert loss == 0
    assert (hidden.grad == 0).all()


def test_autocast_is_as_near_to_float32_as_the_reference():
    hidden, weight = torch.randn(64, 32, requires_grad=True), torch.randn(128, 32, requires_grad=True)
    labels = torch.randint(0, 128, (64,))
    exact = reference_loss(hidden, weight, labels)
    exact_grads = torch.autograd.grad(exact, (hidden, weight))
    errors = {}
    for form in (reference_loss, linear_cross_entropy):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = form(hidden, weight, labels)
        assert loss.dtype == torch.float32
        grads = torch.autograd.grad(loss, (hidden, weight))
        assert all(grad.dtype == torch.float32 for grad in grads)
        pairs = [(loss.detach(), exact.detach()), *zip(grads, exact_grads, strict=True)]
        errors[form] = [float((found - expected).norm() / expected.norm()) for found, expected in pairs]
    for ours, reference in zip(errors[linear_cross_entropy], errors[reference_loss], strict=True):
        assert ours < max(1.5 * reference, 1e-3)


@pytest.mark.parametrize("chunk", [3, 64])
def test_logits_have_the_chunk_size(chunk, monkeypatch):
    sizes = []
    product = torch.mm

    def spy(*inputs, out):
        sizes.append(out.shape[0])
        return product(*inputs, out=out)

    monkeypatch.setattr("groundup.model.loss.torch.mm", spy)
    linear_cross_entropy(torch.randn(10, 3), torch.randn(7, 3), torch.randint(0, 7, (10,)), chunk_size=chunk)
    assert max(sizes) == min(chunk, 10)
    assert sum(sizes) == 10


def test_vocab_shards_equal_the_full_vocabulary():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(6, 4), torch.randn(9, 4), torch.randn(9)
    labels = torch.tensor([0, 8, 3, IGNORE_INDEX, 4, 5])
    options = {"softcap": 3.0, "z_loss": 0.1, "chunk_size": 2}
    full = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    loss = linear_cross_entropy(*full[:2], labels, bias=full[2], **options)
    loss.backward()

    # Each shard runs in its own thread; reductions wait for all threads.
    bounds, results = ((0, 4), (4, 9)), {}
    barrier, values = threading.Barrier(2, timeout=30), [torch.empty(0)] * 2

    def reduce(rank, combine, value):
        values[rank] = value
        barrier.wait()
        found = combine(torch.stack(values))
        barrier.wait()
        return found

    def run(rank):
        first, stop = bounds[rank]
        parts = [x.clone().requires_grad_() for x in (hidden, weight[first:stop], bias[first:stop])]
        shard = VocabShard(first, partial(reduce, rank, lambda x: x.amax(0)), partial(reduce, rank, lambda x: x.sum(0)))
        found = linear_cross_entropy(*parts[:2], labels, bias=parts[2], vocab_shard=shard, **options)
        found.backward()
        results[rank] = (found.detach(), *(x.grad for x in parts))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(2):
        torch.testing.assert_close(results[rank][0], loss.detach())
    torch.testing.assert_close(results[0][1] + results[1][1], full[0].grad)
    for index in (2, 3):
        torch.testing.assert_close(torch.cat([results[0][index], results[1][index]]), full[index - 1].grad)
