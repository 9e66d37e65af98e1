"""Latent attention: its absorbed form for one token equals the expanded one; caches, training, wrapped layers."""

import pytest
import torch
from torch import nn

from groundup.model import Decoder
from groundup.model.block import BLOCKS
from groundup.model.latent_attention import LatentAttention
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import ModelConfig
from groundup.recipe.mixer_config import LatentAttentionConfig

TOKENS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))
YARN = {"method": "yarn", "factor": 4.0, "original_context_length": 8, "mscale": 1.0, "mscale_all_dim": 0.7}


def make_model(q_rank: int | None = 6, **knobs) -> Decoder:
    torch.manual_seed(0)
    latent = LatentAttentionConfig(kv_rank=9, q_rank=q_rank, rope_head_dim=4, value_head_dim=7)
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 3, "head_dim": 10, "context_length": 32}
    model = Decoder(ModelConfig(**sizes, latent_attention=latent, init_std=0.3, **knobs))  # type: ignore[arg-type]
    return model.eval()


def decode(model: Decoder) -> torch.Tensor:
    cache = model.new_cache(2)
    ends = [5, 8, 9, 10, 11, 12]
    parts = [model(TOKENS[:, a:b], cache=cache).logits for a, b in zip([0, *ends], ends, strict=False)]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("q_rank", [None, 6])
@pytest.mark.parametrize(
    "knobs",
    [{}, {"rope_scaling": YARN}, {"attention_sinks": True}, {"attention_softcap": 2.0}, {"attention_scale": 0.1}],
)
@torch.no_grad()
def test_latents_as_keys_equal_expanded_keys(q_rank, knobs):
    model = make_model(q_rank, **knobs)
    full = model(TOKENS).logits
    torch.testing.assert_close(decode(model), full, rtol=1e-4, atol=1e-5)
    for layer in model.modules():
        if isinstance(layer, LatentAttention):  # as quantization and LoRA do: no longer a plain linear layer
            layer.kv_b_proj = nn.Sequential(layer.kv_b_proj)
    torch.testing.assert_close(decode(model), full, rtol=1e-4, atol=1e-5)


def test_the_cache_holds_latents():
    cache = make_model().new_cache(3, 20)
    assert cache.keys.shape == (2, 3, 1, 20, 9 + 4)
    assert cache.values.numel() == 0


def test_every_weight_has_a_gradient():
    model = make_model().train()
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("placement", BLOCKS)
def test_blocks_with_norms_anywhere_have_it(placement):
    model = make_model(norm_placement=placement)
    assert all(type(block.attention) is LatentAttention for block in model.blocks)


@pytest.mark.parametrize("q_rank", [None, 6])
def test_parameters_are_counted(q_rank):
    model = make_model(q_rank)
    assert count_parameters(model.config).total == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"head_dim": 4}, "rope_head_dim = 4, expected less than head_dim = 4"),
        ({"num_kv_heads": 1}, "num_kv_heads = 1 with latent_attention, expected 3"),
        ({"qk_norm": True}, "qk_norm = True with latent_attention, expected False"),
        ({"latent_attention": {"kv_rank": 9, "rope_head_dim": 3, "value_head_dim": 7}}, "rope_head_dim = 3 is odd"),
    ],
)
def test_contradictions_are_refused(knobs, words):
    fields = make_model().config.model_dump() | knobs
    with pytest.raises(ValueError, match=words):
        ModelConfig.model_validate(fields)
