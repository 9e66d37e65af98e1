"""QLoRA: adapters over a base in NF4, or over one that is packed already."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune import finetune
from groundup.finetune.lora import apply_lora
from groundup.finetune.trainable_base import load_base, save_tuned
from groundup.interop import export_huggingface
from groundup.interop.adapters import load_adapter, save_adapter
from groundup.interop.adapters.lora_layer import merge_lora
from groundup.interop.adapters.trainable_tokens import merge_trainable_tokens
from groundup.model import load_model, save_model
from groundup.model.frozen_linear import PackedLinear
from groundup.model.moe import Experts
from groundup.quantize import QuantizationScheme, QuantizationSettings, quantize_model
from groundup.quantize.formats.bitsandbytes_format import nf4_tensors
from groundup.quantize.layers.nf4 import quantize_nf4
from groundup.quantize.layers.nf4_linear import NF4Linear, pack_nf4
from groundup.quantize.model_loader import load_quantized_model
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.stage import write_base
from groundup.recipe import RecipeView
from groundup.recipe.recipe_file import parse_recipe

TOKENS = torch.randint(0, 260, (2, 20), generator=torch.Generator().manual_seed(0))
SHAPE = {"hidden_size": 64, "intermediate_size": 128}


def packed(model, how):
    if how == "nf4":
        return pack_nf4(model)
    quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    return model


@pytest.mark.parametrize("how", ["nf4", "rtn"])
def test_gradients_are_those_over_the_dequantized_base(make_decoder, how):
    model = packed(make_decoder(**SHAPE), how)
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, PackedLinear):
            plain.set_submodule(name, layer.to_linear())
    for each in (model, plain):
        torch.manual_seed(1)
        assert len(apply_lora(each, 4, 8.0)) == 14
        with torch.no_grad():
            for name, weight in each.named_parameters():
                if name.endswith("lora_b"):
                    weight.normal_(std=0.1)
        each(TOKENS, labels=TOKENS).loss.backward()
    expected = {name: weight.grad for name, weight in plain.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert gradients.keys() == expected.keys()
    assert all(torch.allclose(gradients[name], expected[name], atol=1e-6) for name in expected)


def test_trains_and_merges_into_the_dequantized_weights(make_decoder, byte_tokenizer, conversations, tmp_path):
    model = make_decoder(**SHAPE)
    knobs = {"epochs": 12, "batch_tokens": 192, "learning_rate": 2e-2, "augment_user_turns": False}
    result = finetune(model, byte_tokenizer, conversations, method="qlora", merge=False, **knobs)
    losses = [record["loss"] for record in result.training.records]
    assert losses[-1] < 0.9 * losses[0]
    assert sum(isinstance(module, NF4Linear) for module in model.modules()) == 14
    expected = model(TOKENS).logits
    save_adapter(model, tmp_path)
    reloaded = load_adapter(pack_nf4(make_decoder(**SHAPE)), tmp_path, verify=False)
    assert torch.allclose(reloaded(TOKENS).logits, expected, atol=1e-5)
    merge_trainable_tokens(merge_lora(model))
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert torch.allclose(model(TOKENS).logits, expected, atol=1e-4)


def test_a_packed_base_is_trained_as_it_is(make_decoder, tmp_path, byte_tokenizer):
    model = packed(make_decoder(**SHAPE), "rtn")
    save_quantized_folder(model, tmp_path, "rtn")
    byte_tokenizer.save(tmp_path)
    loaded = load_base(tmp_path, "qlora", torch.device("cpu"))
    assert torch.allclose(pack_nf4(loaded)(TOKENS).logits, model(TOKENS).logits, atol=1e-5)


def test_a_float_base_is_packed_while_it_is_read(make_decoder, tmp_path):
    save_model(make_decoder(**SHAPE), tmp_path)
    loaded = load_base(tmp_path, "qlora", torch.device("cpu"))
    assert torch.allclose(loaded(TOKENS).logits, pack_nf4(make_decoder(**SHAPE))(TOKENS).logits, atol=1e-5)


def test_experts_are_packed_trained_around_and_joined(make_decoder, byte_tokenizer, tmp_path):
    """Experts in NF4: the same model from the file and in place, gradients through them, plain weights at the end."""
    model = make_decoder(**SHAPE, moe={"num_experts": 4, "experts_per_token": 2, "intermediate_size": 64})
    save_model(model, tmp_path / "base")
    byte_tokenizer.save(tmp_path / "base")
    loaded = load_base(tmp_path / "base", "qlora", torch.device("cpu"))
    expected = pack_nf4(copy.deepcopy(model)).eval()(TOKENS).logits
    torch.testing.assert_close(loaded(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, Experts) for module in loaded.modules())
    with pytest.raises(UserError, match="experts are packed"):
        apply_lora(loaded, 2, 4.0, targets=["experts"])
    names = apply_lora(loaded, 2, 4.0, targets=["attention"])
    assert len(names) == 8
    loaded(TOKENS, labels=TOKENS).loss.backward()
    with torch.no_grad():
        for name, weight in loaded.named_parameters():
            if name.endswith("lora_b"):
                weight.normal_(std=0.1)
    trained = loaded(TOKENS).logits
    save_tuned(loaded, byte_tokenizer, tmp_path / "tuned", "qlora", tmp_path / "base")
    torch.testing.assert_close(load_model(tmp_path / "tuned")(TOKENS).logits, trained, rtol=1e-4, atol=1e-4)
    again = load_adapter(
        load_base(tmp_path / "base", "qlora", torch.device("cpu")), tmp_path / "tuned" / "adapter", verify=False
    )
    torch.testing.assert_close(again(TOKENS).logits, trained, rtol=1e-4, atol=1e-4)


def test_layers_without_adapters_are_stored_in_floating_point(make_decoder, byte_tokenizer, tmp_path):
    save_model(make_decoder(**SHAPE), tmp_path / "base")
    byte_tokenizer.save(tmp_path / "base")
    model = load_base(tmp_path / "base", "qlora", torch.device("cpu"))
    apply_lora(model, 2, 4.0, targets=["attention"])
    expected = model(TOKENS).logits
    save_tuned(model, byte_tokenizer, tmp_path / "tuned", "qlora", tmp_path / "base")
    torch.testing.assert_close(load_model(tmp_path / "tuned")(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_base_in_nf4_of_bitsandbytes(make_decoder, byte_tokenizer, tmp_path):
    """Stage 04-base unpacks it, qlora packs it again: the weights of the folder, to the rounding of the scales."""
    model = make_decoder(**SHAPE)
    folder, out = tmp_path / "bnb", tmp_path / "04-base"
    export_huggingface(model, byte_tokenizer, folder, dtype="bfloat16")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        packed_parts = nf4_tensors(quantize_nf4(tensors.pop(name)), torch.bfloat16)
        tensors |= {f"{layer}.{part}": tensor for part, tensor in packed_parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    nf4 = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    }
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": nf4}))
    expected = load_quantized_model(folder)[0]
    out.mkdir()
    recipe = parse_recipe({"name": "b", "base": {"model": str(folder)}})
    write_base(RecipeView(recipe, ("base",)), {}, out, Machine(device="cpu"))
    model = load_base(out, "qlora", torch.device("cpu"))
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, NF4Linear)}
    assert len(found) == 14
    for name, layer in found.items():
        weight = expected.get_submodule(name).dequantize()
        assert (layer.dequantize() - weight).abs().max() < 0.02 * weight.abs().max()
