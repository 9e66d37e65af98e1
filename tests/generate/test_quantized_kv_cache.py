"""Keys and values in 8 bits against the cache of floating-point numbers."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.generate import GREEDY, beam_search, generate, generate_many, next_token_logits, use_kv_bits
from groundup.generate.quantized_kv_cache import QuantizedKVCache
from groundup.model import Decoder
from groundup.recipe import ModelConfig

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "context_length": 64,
}  # fmt: skip
LATENT = {"kv_rank": 24, "rope_head_dim": 8, "value_head_dim": 16}


@pytest.fixture(params=[{"num_kv_heads": 2}, {"latent_attention": LATENT}], ids=["grouped", "latent"])
def model(request) -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig.model_validate(SIZES | request.param)).eval()


def test_rows_are_rounded_to_a_128th_of_their_largest_number():
    states = torch.randn(2, 3, 5, 16) * torch.tensor([1e-6, 1.0, 1e4])[:, None, None]
    states[0, 0, 0] = 0
    stored = QuantizedKVCache.encode(states, torch.int8)
    assert (stored.dtype, stored.shape) == (torch.int8, (2, 3, 5, 18))
    error = (QuantizedKVCache.decode(stored, torch.float32) - states).abs()
    assert (error <= states.abs().amax(-1, keepdim=True) / 250).all()
    assert QuantizedKVCache.encode(torch.empty(1, 1, 4, 0), torch.int8).shape[-1] == 0


def test_logits_are_close_and_memory_is_halved(model):
    exact = model.new_cache(1, 40)
    use_kv_bits(model, 8)
    cache = model.new_cache(1, 40)
    tokens = torch.randint(96, (1, 30)).tolist()
    for part in (tokens[0][:20], *([token] for token in tokens[0][20:])):
        found, expected = (next_token_logits(model, [part], each) for each in (cache, exact))
        assert 0 < (found - expected).norm() / expected.norm() < 0.01
    assert isinstance(cache, QuantizedKVCache)
    bfloat16 = (exact.keys.nbytes + exact.values.nbytes) / 2
    assert cache.keys.nbytes + cache.values.nbytes <= bfloat16 * 0.57  # 0.52 with heads of 64


def test_batches_and_beams_read_the_same_cache(model):
    use_kv_bits(model, 8)
    prompts = [[1, 2, 3, 4], [5, 6], [7] * 20]
    expected = [generate(model, prompt, max_tokens=12, sampling=GREEDY) for prompt in prompts]
    assert generate_many(model, prompts, max_tokens=12, sampling=GREEDY, max_batch=2) == expected
    assert beam_search(model, prompts[0], num_beams=3, max_tokens=6)


def test_user_errors(model):
    assert use_kv_bits(model, None) is model
    with pytest.raises(UserError, match="kv_bits = 4, expected 8"):
        use_kv_bits(model, 4)
    with pytest.raises(UserError, match="no decoder"):
        use_kv_bits(torch.nn.Linear(2, 2), 8)
