"""State-space layers: the scan in chunks equals the recurrence, token by token; caches; what is refused."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.model import Decoder
from groundup.model.state_space import scan_chunks
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import ModelConfig
from groundup.recipe.mixer_config import StateSpaceConfig

TOKENS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))


def make_model(**knobs) -> Decoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "head_dim": 10, "context_length": 32}
    state_space = StateSpaceConfig(state_size=5, num_groups=2, convolution_bias=False)
    return Decoder(ModelConfig(**sizes | {"state_space": state_space, "init_std": 0.3} | knobs)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk_length", [1, 4, 13, 64])
def test_scan_equals_the_recurrence(chunk_length):
    torch.manual_seed(0)
    values, steps, rates = torch.randn(2, 13, 6, 4), torch.rand(2, 13, 6), -torch.rand(6) * 3
    keys, queries = torch.randn(2, 2, 13, 3, 5)
    state = torch.randn(2, 6, 4, 5)
    found, last = scan_chunks(values, steps, rates, keys, queries, state, chunk_length)
    for t in range(13):
        for head in range(6):
            group, dt = head // 2, steps[:, t, head, None, None]
            added = dt * values[:, t, head, :, None] * keys[:, t, group, None, :]
            state[:, head] = (rates[head] * dt).exp() * state[:, head] + added
            expected = (state[:, head] @ queries[:, t, group, :, None])[..., 0]
            torch.testing.assert_close(found[:, t, head], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cached_equals_uncached():
    model = make_model()
    cache, ends = model.new_cache(2), [2, 7, 8, 9, 12]
    parts = [model(TOKENS[:, a:b], cache=cache).logits for a, b in zip([0, *ends], ends, strict=False)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_every_weight_has_a_gradient():
    model = make_model().train()
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_parameters_are_counted():
    model = make_model()
    assert count_parameters(model.config).total == sum(weight.numel() for weight in model.parameters())


def test_packed_documents_are_refused():
    with pytest.raises(UserError, match="document_ids with state-space layers"):
        make_model()(TOKENS, document_ids=torch.zeros_like(TOKENS))


def test_contradictions_are_refused():
    with pytest.raises(UserError, match="qk_norm = True with state_space, expected False"):
        make_model(qk_norm=True)
    with pytest.raises(UserError, match=r"num_heads = 4, expected a multiple of state_space.num_groups = 3"):
        make_model(state_space={"state_size": 5, "num_groups": 3})
