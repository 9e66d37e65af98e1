"""Weight initialization: standard deviations, reproducibility, muP."""

import math

import pytest
import torch
from torch import nn

from groundup.model import Decoder, init_weights
from groundup.model.weight_init import RESIDUAL_PROJECTIONS
from groundup.recipe import ModelConfig


def test_standard_deviations(config):
    model = Decoder(config(vocab_size=500, hidden_size=96, num_heads=12, intermediate_size=160, num_layers=8))
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert (weight == 1).all(), name
            continue
        residual = any(part in name for part in RESIDUAL_PROJECTIONS)
        expected = 0.02 / math.sqrt(16) if residual else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.05), name


def test_standard_deviations_of_experts(config):
    moe = {"num_experts": 8, "experts_per_token": 2}
    experts = Decoder(config(hidden_size=48, num_heads=6, num_layers=2, moe=moe)).blocks[0].feed_forward.experts
    assert experts.up_proj.std().item() == pytest.approx(0.02, rel=0.05)
    assert experts.down_proj.std().item() == pytest.approx(0.02 / 2, rel=0.05)


def test_residual_stream_size_does_not_depend_on_depth(config):
    sizes = []
    for depth in (2, 32):
        model = Decoder(config(num_layers=depth, hidden_size=64, num_heads=8))
        x = model.embedding(torch.randint(0, 61, (4, 16)), torch.arange(16))
        views = {kind: encoding(torch.arange(16)) for kind, encoding in model.position_encodings.items()}
        start = x.std()
        for block in model.blocks:
            x = block(x, views["global"])
        sizes.append((x.std() / start).item())
    assert sizes[1] / sizes[0] < 1.2


def test_all_weights_are_initialized(decoder_config):
    model = Decoder(decoder_config)
    for weight in model.parameters():
        nn.init.constant_(weight, 7.0)
    init_weights(model, decoder_config)
    assert not [name for name, weight in model.named_parameters() if (weight == 7).all()]


def test_initialization_is_reproducible(decoder_config):
    torch.manual_seed(3)
    first = Decoder(decoder_config).state_dict()
    torch.manual_seed(3)
    second = Decoder(decoder_config).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def coordinates(width: int, base: int | None, steps: int = 5) -> dict[str, float]:
    """Mean change of hidden states and logits in a few steps of Adam."""
    torch.manual_seed(1)
    config = ModelConfig(
        vocab_size=61,
        hidden_size=width,
        num_layers=2,
        num_heads=width // 16,
        head_dim=16,
        intermediate_size=2 * width,
        context_length=16,
        mup_base_width=base,
        init_std=0.1,
    )
    model = Decoder(config)
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if not any(weight is matrix for matrix in matrices)]
    rate = 1e-2
    optimizer = torch.optim.Adam(
        [{"params": matrices, "lr": rate / config.width_multiplier}, {"params": others, "lr": rate}]
    )
    tokens = torch.randint(0, 61, (8, 16))
    with torch.no_grad():
        before = model.hidden_states(tokens), model(tokens).logits
    for _ in range(steps):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = model.hidden_states(tokens), model(tokens).logits
    moved = [(new - old).abs().mean().item() for new, old in zip(after, before, strict=True)]
    return {"hidden": moved[0], "logits": moved[1]}


def test_mup_coordinate_check():
    """Activations change equally at any width with muP (Yang et al. 2022, appendix D.1), and more without."""
    widths = (32, 256)
    narrow, wide = (coordinates(width, base=32) for width in widths)
    assert all(0.5 < wide[name] / narrow[name] < 2 for name in narrow)
    narrow, wide = (coordinates(width, base=None) for width in widths)
    assert wide["logits"] / narrow["logits"] > 3
