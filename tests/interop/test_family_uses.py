"""What the table of families says of decoders: generation in a batch, LoRA and quantization, on a small model of each."""

import pytest
import torch

from groundup.finetune.lora import apply_lora
from groundup.generate import GREEDY, generate_many, generate_reference
from groundup.interop.adapters.lora_layer import merge_lora
from groundup.interop.families import FAMILIES
from groundup.interop.family_table import small_config
from groundup.model import Decoder
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantizer import QuantizationSettings, quantize_model

DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]
FEW = ("mamba2", "deepseek_v3", "gpt_oss", "bloom")
"""Families with parts of their own, for GPTQ and AWQ."""


ALL_EXPERTS = {"num_experts": 2, "experts_per_token": 2, "num_expert_groups": 1, "experts_groups_per_token": 1}


def small_model(name: str) -> Decoder:
    """Random weights; every token goes to all experts, because a small change would send it to others."""
    torch.manual_seed(0)
    config = small_config(FAMILIES[name])
    if config.moe is not None:
        config = config.model_copy(update={"moe": config.moe.model_copy(update=ALL_EXPERTS)})
    model = Decoder(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(std=0.1)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_rows_of_different_lengths_are_answered_as_alone(name: str):
    model, prompts = small_model(name), [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2]]
    alone = [list(generate_reference(model, prompt, max_tokens=6, sampling=GREEDY)) for prompt in prompts]
    assert generate_many(model, prompts, max_tokens=6, sampling=GREEDY) == alone


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_adapters_are_trained_and_merged(name: str):
    model, tokens = small_model(name), torch.randint(1, 500, (2, 16))
    names = apply_lora(model, 4, 8.0)
    assert names
    model.train()(tokens, labels=tokens).loss.backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.no_grad():
        for weight in trained:
            assert weight.grad is not None
            weight += 0.1
    expected = model.eval()(tokens).logits
    merge_lora(model)
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, "rtn") for name in DECODERS), *((name, way) for name in FEW for way in ("gptq", "awq"))],
)
def test_quantized_models_stay_near(name: str, method: str):
    model, windows = small_model(name), torch.randint(1, 500, (4, 32))
    expected = model(windows).logits
    settings = QuantizationSettings(method, QuantizationScheme(8, 32))
    quantize_model(model, settings, None if method == "rtn" else windows)
    assert quantized_layers(model)
    difference = model(windows).logits - expected
    assert difference.square().mean() < 0.05 * expected.var()
