"""Encoder-decoders: shifted inputs, cross-attention, cache."""

import pytest
import torch
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model import IGNORE_INDEX, EncoderDecoder

T5 = {
    "architecture": "encoder_decoder",
    "position_embedding": "relative",
    "attention_scale": 1.0,
    "feed_forward": "geglu_tanh",
    "num_encoder_layers": 2,
    "decoder_start_token_id": 3,
}


BART = {
    "norm": "layernorm",
    "norm_bias": True,
    "norm_placement": "post",
    "embedding_norm": True,
    "position_embedding": "learned",
    "attention_bias": "all",
    "feed_forward": "gelu",
    "feed_forward_bias": True,
    "head_bias": True,
}


@pytest.fixture(params=["t5", "rope", "grouped", "umt5", "bart", "mbart", "marian", "m2m"])
def model(request, config):
    knobs = {
        "t5": {},
        "umt5": {"relative_bias_per_layer": True},
        "bart": BART,
        "mbart": BART | {"norm_placement": "pre", "keep_first_norm": True},
        "marian": BART | {"embedding_norm": False, "position_embedding": "sinusoidal"},
        "m2m": BART | {"norm_placement": "pre", "embedding_norm": False, "position_embedding": "sinusoidal_fairseq"},
        "rope": {"position_embedding": "rope"},
        "grouped": {"num_heads": 6, "num_kv_heads": 2, "tie_embeddings": True},
    }
    return EncoderDecoder(config(**(T5 | knobs[request.param]))).eval()


@pytest.fixture
def texts():
    return torch.randint(0, 61, (2, 8)), torch.randint(0, 61, (2, 6))


def test_decoder_inputs_are_shifted_labels(model, texts):
    source, target = texts
    target[0, 4:] = IGNORE_INDEX
    read = torch.cat((torch.full((2, 1), 3), target[:, :-1]), dim=1)
    read[read == IGNORE_INDEX] = 3
    logits = model(source, decoder_tokens=read).logits
    outputs = model(source, labels=target)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(logits.flatten(0, 1), target.flatten()))
    outputs.loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


def test_cross_attention_is_full_and_self_attention_causal(model, texts):
    source, target = texts
    before = model(source, decoder_tokens=target).logits
    other = source.clone()
    other[:, -1] = (other[:, -1] + 1) % 61
    assert ((model(other, decoder_tokens=target).logits - before).abs().max(dim=-1).values > 0).all()
    later = target.clone()
    later[:, 4] = (later[:, 4] + 1) % 61
    torch.testing.assert_close(model(source, decoder_tokens=later).logits[:, :4], before[:, :4])


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_cached_chunks_equal_one_pass(model, texts, padded):
    source, target = texts
    documents = torch.tensor([[1] * 5 + [0] * 3, [1] * 8]) if padded else None
    full = model(source, decoder_tokens=target, document_ids=documents).logits
    cache = model.new_cache(source, 10, document_ids=documents)
    chunks = [model.decode(target[:, begin:end], cache) for begin, end in ((0, 3), (3, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(chunks, dim=1), full, rtol=1e-4, atol=1e-5)
    if padded:
        single = model(source[:1, :5], decoder_tokens=target[:1]).logits
        torch.testing.assert_close(full[:1], single, rtol=1e-4, atol=1e-5)


def test_encoder_and_decoder_depths(model):
    assert len(model.encoder.blocks) == 2
    assert len(model.decoder.blocks) == 3


def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match="neither labels nor decoder_tokens"):
        model(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(UserError, match="token id 61"):
        model(torch.tensor([[61]]), labels=torch.tensor([[1]]))
    with pytest.raises(UserError, match="token id 99"):
        model(torch.tensor([[1]]), labels=torch.tensor([[99, 2]]))


def test_training_to_copy(config):
    model = EncoderDecoder(config(**(T5 | {"num_layers": 1, "num_encoder_layers": 1}))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        source = torch.randint(4, 12, (16, 5))
        loss = model(source, labels=source).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]
