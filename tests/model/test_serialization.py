"""Saving and loading of models, and messages about files that do not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.artifacts.errors import UserError
from groundup.model import (
    ARCHITECTURES,
    Decoder,
    assign_weights,
    build_meta_model,
    build_model,
    load_model,
    save_model,
    save_tensors,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_save_and_load_round_trip(config, tmp_path, architecture):
    model = build_model(config(architecture=architecture, tie_embeddings=True)).eval()
    save_model(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    tokens = {"tokens": torch.randint(0, 61, (1, 9))}
    if architecture == "encoder_decoder":
        tokens["decoder_tokens"] = torch.randint(0, 61, (1, 4))
    assert torch.equal(loaded(**tokens).logits, model(**tokens).logits)
    assert all(weight.requires_grad for weight in loaded.parameters())


def test_every_decoder_round_trips(decoder_config, tmp_path):
    model = Decoder(decoder_config).eval()
    save_model(model, tmp_path)
    tokens = torch.randint(0, 61, (2, 9))
    assert torch.equal(load_model(tmp_path)(tokens).logits, model(tokens).logits)


def test_dtype(config, tmp_path):
    save_model(Decoder(config()).to(torch.bfloat16), tmp_path)
    assert next(load_model(tmp_path).parameters()).dtype == torch.bfloat16
    assert next(load_model(tmp_path, dtype=torch.float32).parameters()).dtype == torch.float32


def test_expert_biases_are_saved(config, tmp_path):
    model = Decoder(config(moe={"num_experts": 3, "experts_per_token": 1, "load_balancing": "bias"}))
    model.blocks[1].feed_forward.router.load_balancer.bias.fill_(0.5)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert (loaded.blocks[1].feed_forward.router.load_balancer.bias == 0.5).all()
    tokens = torch.randint(0, 61, (1, 4))
    loaded.train()(tokens, labels=tokens).loss.backward()  # the load buffer exists


@pytest.fixture
def folder(config, tmp_path):
    save_model(Decoder(config()), tmp_path)
    return tmp_path


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("final_norm.weight"), r"final_norm\.weight: expected, not found"),
        (lambda w: w.update(surplus=torch.zeros(1)), "surplus: found, not expected"),
        (
            lambda w: w.update({"blocks.1.attention.k_proj.weight": torch.zeros(2, 3)}),
            r"blocks\.1\.attention\.k_proj\.weight: expected shape \(24, 24\), found \(2, 3\)",
        ),
    ],
)
def test_wrong_tensors_are_refused(folder, edit, message):
    change(folder, edit)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        load_model(folder)


def test_missing_files_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match=r"model\.json: no such file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ('{"vocab_size": 3}', "hidden_size"), ("[1]", "expected an object")]
)
def test_damaged_config_is_refused(folder, text, message):
    (folder / "model.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_unknown_knob_is_refused(folder):
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(values | {"hidden_dims": 3}))
    with pytest.raises(UserError, match="hidden_dims"):
        load_model(folder)


def test_missing_tensor_assigns_nothing(config):
    model = build_meta_model(config())
    weights = Decoder(config()).state_dict()
    del weights["head.weight"]
    with pytest.raises(UserError, match=r"head\.weight"):
        assign_weights(model, weights, source="memory")
    assert all(weight.is_meta for weight in model.parameters())


def test_unstored_buffers_are_on_the_device_of_the_weights(config):
    model = build_meta_model(config(), "cpu")
    rotary = model.get_submodule("position_encodings.global.rotary")
    assert not rotary.frequencies.is_meta
    weights = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    assign_weights(model, weights, source="memory")
    assert rotary.frequencies.is_meta


def test_weights_have_the_permissions_of_any_new_file(tmp_path):
    save_tensors({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "other").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("weights.safetensors", "other")]
    assert modes[0] == modes[1]
