"""Decoders: causality, cache, packing, loss, dtypes, validation."""

import jaxtyping
import pytest
import torch
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model import IGNORE_INDEX, Decoder


@pytest.fixture
def decoder(decoder_config):
    return Decoder(decoder_config).eval()


@pytest.fixture
def tokens(decoder):
    return torch.randint(0, decoder.config.vocab_size, (2, 13))


def test_logits_do_not_depend_on_later_tokens(decoder, tokens):
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 61
    before, after = decoder(tokens).logits, decoder(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-6)
    assert (before[:, 7:] - after[:, 7:]).abs().min(dim=-1).values.max() > 0


def test_loss_is_of_the_next_token(decoder, tokens):
    labels = tokens.clone()
    labels[0, :4] = IGNORE_INDEX
    expected = F.cross_entropy(decoder(tokens).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    outputs = decoder(tokens, labels=labels)
    assert outputs.logits is None
    torch.testing.assert_close(outputs.loss, expected)


def test_every_weight_has_a_gradient(decoder, tokens):
    decoder.train()(tokens, labels=tokens).loss.backward()
    unused = [name for name, weight in decoder.named_parameters() if weight.grad is None]
    assert not unused
    assert all(torch.isfinite(weight.grad).all() for weight in decoder.parameters())


@pytest.mark.parametrize("lengths", [[1] * 13, [13], [5, 1, 1, 6], [4, 9]])
def test_cached_chunks_equal_one_pass(decoder, tokens, lengths):
    cache, begin, chunks = decoder.new_cache(2, 20), 0, []
    with torch.no_grad():
        full = decoder(tokens).logits
        for length in lengths:
            chunks.append(decoder(tokens[:, begin : begin + length], cache=cache).logits)
            begin += length
    assert cache.length == 13
    torch.testing.assert_close(torch.cat(chunks, dim=1), full, rtol=1e-4, atol=1e-5)


def test_packed_documents_equal_single_documents(decoder, tokens):
    documents = torch.tensor([[0] * 5 + [1] * 8, [3] * 13])
    with torch.no_grad():
        packed = decoder(tokens, document_ids=documents).logits
        alone = torch.cat((decoder(tokens[:1, :5]).logits, decoder(tokens[:1, 5:]).logits), dim=1)
        torch.testing.assert_close(packed[:1], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(packed[1:], decoder(tokens[1:]).logits, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_is_near_float32(decoder, tokens):
    expected = decoder(tokens, labels=tokens).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(tokens, labels=tokens).loss
    assert found.dtype == torch.float32
    assert abs(found - expected) < 0.02 * expected


def test_bfloat16_weights_run(decoder, tokens):
    decoder.to(torch.bfloat16)
    cache = decoder.new_cache(2)
    logits = decoder(tokens, cache=cache).logits
    assert logits.dtype == cache.keys.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


def test_plain_training_loop():
    import groundup

    model = groundup.Decoder(groundup.ModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = torch.randint(0, 64, (4, 16))
    losses = []
    for _ in range(20):
        outputs = model(batch, labels=batch)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outputs.loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_z_loss_is_added(config):
    decoder = Decoder(config())
    tokens = torch.randint(0, 61, (2, 9))
    logits = decoder(tokens).logits[:, :-1]
    extra = 0.1 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(
        decoder(tokens, labels=tokens, z_loss=0.1).loss, decoder(tokens, labels=tokens).loss + extra
    )


def test_tied_head_is_the_embedding(config):
    tied, free = Decoder(config(tie_embeddings=True)), Decoder(config())
    assert tied.head.weight is tied.embedding.tokens.weight
    assert "head.weight" not in tied.state_dict()
    assert "head.weight" in free.state_dict()
    assert len({id(weight) for weight in tied.parameters()}) == len(list(tied.parameters()))


def test_ids_and_lengths_out_of_range_are_refused(config):
    decoder = Decoder(config())
    with pytest.raises(UserError, match="33 tokens, expected at most context_length = 32"):
        decoder(torch.zeros(1, 33, dtype=torch.long))
    for bad in (61, -1):
        with pytest.raises(UserError, match=f"token id {bad}, expected 0 to vocab_size - 1 = 60"):
            decoder(torch.tensor([[3, bad]]))
    cache = decoder.new_cache(1, 40)
    decoder(torch.zeros(1, 30, dtype=torch.long), cache=cache)
    with pytest.raises(UserError, match="33 tokens"):
        decoder(torch.zeros(1, 3, dtype=torch.long), cache=cache)
    small = decoder.new_cache(1, 4)
    with pytest.raises(UserError, match="5 tokens, expected at most max_length = 4"):
        decoder(torch.zeros(1, 5, dtype=torch.long), cache=small)


def test_labels_out_of_range_are_refused(config):
    decoder = Decoder(config())
    tokens = torch.tensor([[3, 4]])
    with pytest.raises(UserError, match="label id 61, expected 0 to vocab_size - 1 = 60"):
        decoder(tokens, labels=torch.tensor([[3, 61]]))
    assert decoder(tokens, labels=torch.tensor([[3, -100]])).loss == 0


def test_error_messages_about_shapes(config):
    """As users meet them: without the shape checks of these tests."""
    decoder = Decoder(config())
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UserError, match=r"tokens of shape \(2,\), expected \(batch, length\)"):
            decoder(torch.tensor([3, 4]))
        with pytest.raises(UserError, match=r"labels of shape \(1, 3\), expected that of the tokens, \(1, 2\)"):
            decoder(torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4, 5]]))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
