"""Objectives and masking: nothing is lost, rates equal the papers', reproducible by generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.model import Decoder
from groundup.model.token_masking import mask_random_tokens, span_corruption, span_mask
from groundup.recipe import ModelConfig
from groundup.train.objectives import (
    IGNORE_INDEX,
    NEXT_TOKEN,
    next_token_batch,
    seq2seq_batch,
    uses_model_loss,
    with_z_loss,
)

SENTINELS = list(range(999, 899, -1))
EOS = 1


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_next_token():
    tokens = torch.tensor([[3, 4, 5]])
    assert all(torch.equal(value, tokens) for value in next_token_batch(tokens).values())


def test_z_loss_of_the_recipe_is_added():
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=32, hidden_size=16, num_layers=1, num_heads=2))
    batch = next_token_batch(torch.randint(0, 32, (2, 8)))
    plain, added = (with_z_loss(NEXT_TOKEN, weight) for weight in (0.0, 0.5))
    assert plain is NEXT_TOKEN
    assert uses_model_loss(added)
    logits = model(batch["tokens"]).logits[:, :-1]
    expected = plain.loss(model, batch) + 0.5 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(added.loss(model, batch), expected)


def test_mask_rates_equal_bert():
    tokens = torch.randint(10, 1000, (64, 512), generator=random())
    tokens[:, 0] = 2
    batch = mask_random_tokens(tokens, random(), mask_id=4, vocab_size=1000, special_ids=[2, 3])
    chosen = batch["labels"] != IGNORE_INDEX
    assert not chosen[:, 0].any()
    assert torch.equal(batch["labels"][chosen], tokens[chosen])
    assert torch.equal(batch["tokens"][~chosen], tokens[~chosen])
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    shown = batch["tokens"][chosen]
    hidden, same = shown == 4, shown == tokens[chosen]
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert same.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (~hidden & ~same).float().mean().item() == pytest.approx(0.1, abs=0.02)


def restored(read: list[int], answer: list[int]) -> list[int]:
    """The text from what is read and the true answer."""
    spans: dict[int, list[int]] = {}
    for token in answer[:-1]:
        if token in SENTINELS:
            spans[token] = current = []
        else:
            current.append(token)
    assert list(spans) == SENTINELS[: len(spans)]
    return [word for token in read[:-1] for word in spans.get(token, [token])]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(2, 80), st.floats(0.05, 0.9), st.floats(1, 6), st.integers(0, 99))
def test_span_corruption_loses_nothing(rows, length, rate, mean_length, seed):
    tokens = torch.randint(10, 800, (rows, length), generator=random(seed))
    batch = span_corruption(
        tokens, random(seed), sentinel_ids=SENTINELS, eos_id=EOS, mask_rate=rate, mean_length=mean_length
    )
    for text, read, answer in zip(tokens.tolist(), batch["tokens"].tolist(), batch["labels"].tolist(), strict=True):
        assert read[-1] == answer[-1] == EOS
        assert restored(read, answer) == text


def test_span_corruption_equals_t5():
    mask = span_mask(200, 512, random(), mask_rate=0.15, mean_length=3.0)
    assert (mask.sum(dim=1) == 77).all()
    spans = (mask[:, 1:] & ~mask[:, :-1]).sum(dim=1)
    assert (spans == 26).all()
    assert not mask[:, 0].any()
    assert mask[:, -1].all()
    assert mask[:, 200:300].float().mean().item() == pytest.approx(0.15, abs=0.02)


def test_masking_depends_on_the_generator_only():
    tokens = torch.randint(10, 800, (3, 40))
    for make in (
        lambda g: mask_random_tokens(tokens, g, mask_id=4, vocab_size=800),
        lambda g: span_corruption(tokens, g, sentinel_ids=SENTINELS, eos_id=EOS),
    ):
        one, same, other = make(random(1)), make(random(1)), make(random(2))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert not torch.equal(one["labels"], other["labels"])


def test_too_few_sentinels_and_too_short_rows_are_refused():
    with pytest.raises(ValueError, match="2 sentinel_ids, expected 5"):
        span_corruption(torch.zeros(1, 100, dtype=torch.long), random(), sentinel_ids=[8, 9], eos_id=1)
    with pytest.raises(ValueError, match="sequences of 1 tokens"):
        span_mask(1, 1, random(), mask_rate=0.15, mean_length=3.0)


def test_seq2seq_batch_pads_and_masks():
    batch = seq2seq_batch([[5, 6, 7], [8]], [[9], [10, 11]], pad_id=0, eos_id=EOS)
    assert batch["tokens"].tolist() == [[5, 6, 7, 1], [8, 1, 0, 0]]
    assert batch["document_ids"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[9, 1, IGNORE_INDEX], [10, 11, 1]]
