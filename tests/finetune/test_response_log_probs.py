"""Log-probabilities of response tokens equal those from all logits, with the same gradients, in chunks or not."""

import pytest
import torch

from groundup.evaluate import entropy, token_logprobs
from groundup.finetune import masked_log_probs, masked_log_probs_and_entropy, response_log_probs
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens


def draw_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(264, (3, 20), generator=generator)
    return tokens, torch.rand(tokens.shape, generator=generator) < 0.4


@pytest.mark.parametrize("knobs", [{}, {"tie_embeddings": False, "logit_softcap": 5.0, "logit_scale": 0.5}])
@pytest.mark.parametrize("chunk", [1 << 24, 264 * 4])
def test_values_and_gradients_equal_those_from_all_logits(make_decoder, monkeypatch, knobs, chunk):
    monkeypatch.setattr(response_log_probs, "CHUNK_LOGITS", chunk)
    model = make_decoder(**knobs)
    add_trainable_tokens(model, [3, 7])
    tokens, mask = draw_batch()
    weights = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2))

    log_probs, entropies = masked_log_probs_and_entropy(model, tokens, mask, temperature=0.7)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad((weights * (log_probs + 0.1 * entropies)).sum(), parameters)

    logits = model(tokens).logits[:, :-1] / 0.7
    predicted = mask[:, 1:]
    expected = torch.zeros(tokens.shape)
    expected[:, 1:] = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[:, :, 0] * predicted
    expected_entropy = torch.zeros(tokens.shape)
    expected_entropy[:, 1:] = entropy(logits) * predicted
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, expected_entropy, atol=1e-5, rtol=1e-5)
    slow = torch.autograd.grad((weights * (expected + 0.1 * expected_entropy)).sum(), parameters)
    torch.testing.assert_close(gradients, slow, atol=1e-5, rtol=1e-4)


def test_without_temperature_they_are_the_token_logprobs(make_decoder):
    model, (tokens, _) = make_decoder(), draw_batch()
    found = masked_log_probs(model, tokens, torch.ones_like(tokens))
    torch.testing.assert_close(found[:, 1:], token_logprobs(model, tokens))
    assert found[:, 0].tolist() == [0, 0, 0]


def test_an_empty_mask_has_zeros_and_no_error(make_decoder):
    model, (tokens, mask) = make_decoder(), draw_batch()
    found = masked_log_probs(model, tokens, torch.zeros_like(mask))
    found.sum().backward()
    assert not found.any()


def test_padding_and_packing_change_nothing(make_decoder):
    model, (tokens, mask) = make_decoder(), draw_batch()
    alone = masked_log_probs(model, tokens, mask)
    padded = masked_log_probs(model, torch.nn.functional.pad(tokens, (0, 5)), torch.nn.functional.pad(mask, (0, 5)))
    torch.testing.assert_close(padded[:, :20], alone)
    documents = torch.arange(1, 4).repeat_interleave(20)[None]
    mask[:, 0] = False
    packed = masked_log_probs(model, tokens.view(1, -1), mask.view(1, -1), document_ids=documents)
    torch.testing.assert_close(packed.view(3, 20), masked_log_probs(model, tokens, mask), atol=1e-5, rtol=1e-5)
