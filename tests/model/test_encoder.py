"""Encoders: bidirectional attention, masked tokens, embeddings."""

import math

import pytest
import torch
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model import IGNORE_INDEX, Encoder

ENCODERS = {
    "bert": {
        "norm": "layernorm",
        "norm_bias": True,
        "norm_placement": "post",
        "embedding_norm": True,
        "position_embedding": "learned",
        "num_token_types": 2,
        "attention_bias": "all",
        "feed_forward": "gelu",
        "feed_forward_bias": True,
        "tie_embeddings": True,
    },
    "modernbert": {
        "norm": "layernorm",
        "embedding_norm": True,
        "feed_forward": "geglu",
        "sliding_window": 3,
        "attention_pattern": ("global", "local", "local"),
        "rope_local_theta": 100.0,
        "tie_embeddings": True,
    },
    "plain": {"pooling": "cls"},
}


@pytest.fixture(params=ENCODERS)
def encoder(request, config):
    return Encoder(config(architecture="encoder", **ENCODERS[request.param])).eval()


def test_attention_is_bidirectional(encoder):
    tokens = torch.randint(0, 61, (1, 9))
    before = encoder(tokens).logits
    for index in (0, 8):
        changed = tokens.clone()
        changed[0, index] = (changed[0, index] + 1) % 61
        assert ((encoder(changed).logits - before).abs().max(dim=-1).values > 0).all()


def test_loss_is_of_the_masked_positions(encoder):
    tokens = torch.randint(0, 61, (2, 9))
    labels = tokens.masked_fill(torch.rand(2, 9) < 0.7, IGNORE_INDEX)
    labels[0, 0] = tokens[0, 0]
    outputs = encoder(tokens, labels=labels)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(encoder(tokens).logits.flatten(0, 1), labels.flatten()))
    outputs.loss.backward()
    assert not [name for name, weight in encoder.named_parameters() if weight.grad is None]


def test_padding_has_no_effect(encoder):
    tokens = torch.randint(0, 61, (2, 9))
    mask = torch.tensor([[1] * 6 + [0] * 3, [1] * 9])
    padded = encoder(tokens, document_ids=mask).logits
    torch.testing.assert_close(padded[:1, :6], encoder(tokens[:1, :6]).logits, rtol=1e-4, atol=1e-5)
    vectors = encoder.embed(tokens, document_ids=mask)
    torch.testing.assert_close(vectors[:1], encoder.embed(tokens[:1, :6]), rtol=1e-4, atol=1e-5)
    assert vectors.shape == (2, 24)


def test_token_types_have_an_effect(config):
    encoder = Encoder(config(architecture="encoder", **ENCODERS["bert"]))
    tokens, types = torch.randint(0, 61, (1, 6)), torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert not torch.allclose(encoder(tokens).logits, encoder(tokens, token_types=types).logits)
    torch.testing.assert_close(encoder(tokens).logits, encoder(tokens, token_types=torch.zeros_like(types)).logits)


def test_first_norm_is_skipped_after_an_embedding_norm(config):
    encoder = Encoder(config(architecture="encoder", **ENCODERS["modernbert"]))
    names = encoder.state_dict().keys()
    assert "blocks.0.attention_norm.weight" not in names
    assert "blocks.1.attention_norm.weight" in names


def test_encoder_without_a_head(config):
    encoder = Encoder(config(architecture="encoder", masked_lm_head=False))
    tokens = torch.randint(0, 61, (2, 5))
    assert encoder.embed(tokens).shape == (2, 24)
    for labels in (None, tokens):
        with pytest.raises(UserError, match="masked_lm_head = false"):
            encoder(tokens, labels=labels)


def test_training_on_masked_tokens(config):
    encoder = Encoder(config(architecture="encoder", num_layers=1, **ENCODERS["modernbert"])).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    for _ in range(100):
        tokens = (torch.arange(16) + torch.randint(0, 20, (16, 1))) % 20
        hidden = torch.rand(16, 16) < 0.2
        labels = tokens.masked_fill(~hidden, IGNORE_INDEX)
        loss = encoder(tokens.masked_fill(hidden, 60), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < math.log(20) - 0.2  # the loss of a guess without context
