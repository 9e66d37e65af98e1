"""LoRA: no effect at first, trained parameters, merging, adapters."""

import copy

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.finetune.lora import apply_lora
from groundup.interop.adapters import load_adapter, save_adapter
from groundup.interop.adapters.lora_layer import lora_layers, merge_lora
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens, merge_trainable_tokens, token_matrices

TOKENS = torch.randint(0, 260, (2, 20), generator=torch.Generator().manual_seed(0))


def trained(model, rank=4):
    """A model with additions after a few steps."""
    apply_lora(model, rank, alpha=8.0)
    add_trainable_tokens(model, [0, 1, 2])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_lora_starts_without_effect(make_decoder):
    model = make_decoder()
    expected = model(TOKENS).logits
    names = apply_lora(model, 4, 8.0)
    add_trainable_tokens(model, [1, 2])
    assert len(names) == 14
    assert torch.equal(model(TOKENS).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_only_lora_and_control_tokens_are_trained(make_decoder, tied):
    model = make_decoder(tie_embeddings=tied)
    before = copy.deepcopy(model.state_dict())
    trained(model)
    after = model.state_dict()
    for name, tensor in before.items():
        expected_name = name
        for table in ("embedding.tokens", "head"):
            expected_name = expected_name.replace(f"{table}.weight", f"{table}.parametrizations.weight.original")
        if ".blocks." in f".{name}" and "proj" in name:
            expected_name = name.replace("proj.", "proj.base.")
        assert torch.equal(after[expected_name], tensor), name
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 28 + len(token_matrices(model)) == 28 + (1 if tied else 2)
    assert all(parameter.abs().sum() > 0 for name, parameter in model.named_parameters() if name in trainable)


@pytest.mark.parametrize(
    "knobs", [{"tie_embeddings": True}, {"attention_bias": "all", "feed_forward_bias": True}], ids=str
)
def test_merged_model_has_the_same_logits(make_decoder, knobs):
    model = make_decoder(**knobs)
    names = [name for name, _ in model.named_parameters()]
    untouched = model.embedding.tokens.weight.detach()[5:].clone()
    trained(model)
    expected = model(TOKENS).logits
    merge_trainable_tokens(merge_lora(model))
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    assert not lora_layers(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.embedding.tokens.weight[5:], untouched)


def test_lora_gradients_equal_those_of_the_product(make_decoder):
    """The chain rule by hand: dL/dA = s B^T (dL/dW) and dL/dB = s (dL/dW) A^T, with dL/dW of the merged
    matrix.
    """
    model = trained(make_decoder())
    name, layer = next(iter(lora_layers(model).items()))
    model(TOKENS, labels=TOKENS).loss.backward()
    found_a, found_b = layer.lora_a.grad.clone(), layer.lora_b.grad.clone()
    a, b, scale = layer.lora_a.detach(), layer.lora_b.detach(), layer.scale
    merge_trainable_tokens(merge_lora(model))
    model(TOKENS, labels=TOKENS).loss.backward()
    full_gradient = model.get_submodule(name).weight.grad
    torch.testing.assert_close(found_a, scale * b.T @ full_gradient, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found_b, scale * full_gradient @ a.T, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "knobs",
    [
        {"tie_embeddings": True},
        {},
        {
            "norm": "layernorm",
            "position_embedding": "learned",
            "feed_forward": "relu2",
        },  # no foreign family: our own names
    ],
    ids=str,
)
def test_adapter_round_trip(make_decoder, tmp_path, knobs):
    model = trained(make_decoder(**knobs))
    save_adapter(model, tmp_path)
    loaded = load_adapter(make_decoder(**knobs), tmp_path)
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("knobs", [{"hidden_size": 64}, {"num_layers": 1}, {"tie_embeddings": True}], ids=str)
def test_an_adapter_of_another_model_is_refused(make_decoder, tmp_path, knobs):
    save_adapter(trained(make_decoder()), tmp_path)
    with pytest.raises(UserError, match=r"differs from this model's|head is tied"):
        load_adapter(make_decoder(**knobs), tmp_path)


def test_a_folder_without_adapter_is_refused(make_decoder, tmp_path):
    with pytest.raises(UserError, match=r"adapter_config\.json: no such file"):
        load_adapter(make_decoder(), tmp_path)


def test_lora_of_bfloat16_models_is_float32(make_decoder):
    model = make_decoder().to(torch.bfloat16)
    apply_lora(model, 4, 8.0)
    layer = next(iter(lora_layers(model).values()))
    assert layer.lora_a.dtype is torch.float32
    assert model(TOKENS).logits.dtype is torch.bfloat16
