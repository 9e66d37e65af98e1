"""LoRA: no effect at first, trained parameters, merging, adapters."""

import copy
import json

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune import finetune
from groundup.finetune.lora import LoRAOptions, apply_lora, lora_options, prepare_lora
from groundup.interop.adapters import adapter_disabled, load_adapter, save_adapter
from groundup.interop.adapters.lora_layer import lora_layers, merge_lora
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens, merge_trainable_tokens, token_matrices
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.train import build_optimizers

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


def test_learning_rates_of_lora_plus(make_decoder):
    """B, and vectors, learn `plus_ratio` times as fast; A and token rows at the learning rate."""
    model = make_decoder()
    prepare_lora(model, 4, 8.0, LoRAOptions(plus_ratio=16.0, dora=True), [1, 2])
    (optimizer,) = build_optimizers(model, learning_rate=1e-3)
    rates = {id(parameter): group["peak_lr"] for group in optimizer.param_groups for parameter in group["params"]}
    trained = {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[2] for name, rate in trained.items() if rate == 1e-3} == {"lora_a", "delta"}
    assert {name.rpartition(".")[2] for name, rate in trained.items() if rate == 16e-3} == {"lora_b", "magnitude"}


def test_lora_plus_resumes(make_decoder, byte_tokenizer, tmp_path):
    """A second call finds the last checkpoint: weights, and the optimizer's groups."""
    chat = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}"}] for n in range(8)]
    options = LoRAOptions(plus_ratio=4.0, dora=True, dropout=0.1, targets=("attention",))
    machine = Machine(device="cpu", threads=1, checkpoint_every_seconds=0.0)
    states = []
    for _ in range(2):
        model = make_decoder()
        finetune(model, byte_tokenizer, chat, epochs=2, batch_tokens=64, lora=options, folder=tmp_path, machine=machine)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(
        states[0]["blocks.0.attention.q_proj.weight"], make_decoder().blocks[0].attention.q_proj.weight
    )


def test_lora_of_an_encoder_decoder_learns(byte_tokenizer):
    shape = {"vocab_size": 264, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 32}
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="encoder_decoder", **shape))
    pair = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    result = finetune(
        model, byte_tokenizer, [pair], [pair], epochs=40, learning_rate=1e-2,
        machine=Machine(device="cpu", threads=1),
    )  # fmt: skip
    assert result.knobs["optimizer"] == "adamw"
    assert result.training.evaluations[-1]["loss"] < 0.9 * result.validation_start


def test_adapters_without_token_rows(make_decoder, byte_tokenizer, tmp_path):
    """What vLLM and llama.cpp read: LoRA alone."""
    model = make_decoder()
    chat = [[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]]
    finetune(
        model, byte_tokenizer, chat, epochs=2, merge=False, lora=LoRAOptions(token_rows=False),
        machine=Machine(device="cpu", threads=1),
    )  # fmt: skip
    save_adapter(model, tmp_path)
    assert all(".lora_" in name for name in SafetensorsFolder(tmp_path).shapes)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["trainable_token_indices"] is None


def test_lora_leaves_the_base_in_its_own_tensors_and_dtype(make_decoder):
    model = make_decoder().to(torch.bfloat16)
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    apply_lora(model, 2, 4.0)
    layers = lora_layers(model)
    assert all(layer.base.weight.dtype is torch.bfloat16 for layer in layers.values())
    assert all(layer.base.weight.data_ptr() == before[f"{name}.weight"] for name, layer in layers.items())


def test_the_model_without_its_adapter(make_decoder):
    model = make_decoder()
    expected = model(TOKENS).logits
    trained(model)
    with adapter_disabled(model):
        torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(model(TOKENS).logits, expected)


def test_rows_of_new_tokens_are_trained_where_others_are_known(make_decoder):
    config = FinetuneConfig(conversations=[{"name": "a", "kind": "messages", "path": "a"}])
    options = lora_options(config, trained_tokens=True, new_tokens=[7])
    model = make_decoder()
    prepare_lora(model, 4, 8.0, options, [1, 2])
    rows = [name for name, weight in model.named_parameters() if weight.requires_grad and "lora" not in name]
    assert rows
    assert all(model.get_parameter(name).shape == (1, 32) for name in rows)
    assert lora_options(config.model_copy(update={"lora_token_rows": False}), new_tokens=[7]).new_tokens == ()
