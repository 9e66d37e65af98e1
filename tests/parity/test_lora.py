"""LoRA against PEFT: outputs, gradients, initialization and adapter files."""

import json

import peft
import pytest
import torch
import transformers

from groundup.finetune.lora import apply_lora
from groundup.interop import export_huggingface
from groundup.interop.adapters.adapter_folder import save_adapter
from groundup.interop.adapters.foreign_updates import ForeignLayout
from groundup.interop.adapters.lora_layer import lora_layers
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens
from groundup.interop.families.select_family import select_family
from groundup.model import Decoder
from groundup.recipe import ModelConfig

SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "context_length": 32}
TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
RANK, ALPHA = 4, 12.0

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(params=[{"tie_embeddings": True}, {"qk_norm": True}], ids=("llama, tied", "qwen3"))
def ours(request):
    torch.manual_seed(0)
    model = Decoder(ModelConfig(**SHAPE | request.param)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    return model


@pytest.fixture
def reference(ours, tmp_path):
    export_huggingface(ours, None, tmp_path / "base")
    return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()


def with_random_additions(model):
    """Additions with numbers in them."""
    apply_lora(model, RANK, ALPHA)
    rows = add_trainable_tokens(model, [1, 5])
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_b.normal_(std=0.1)
        for addition in rows.values():
            addition.delta.normal_(std=0.1)
    return model


def test_peft_opens_the_adapter_with_equal_logits(ours, reference, tmp_path):
    with torch.no_grad():
        before = ours(TOKENS).logits
        torch.testing.assert_close(reference(TOKENS).logits, before, rtol=1e-5, atol=1e-5)
        expected = with_random_additions(ours)(TOKENS).logits
        save_adapter(ours, tmp_path / "adapter")
        found = peft.PeftModel.from_pretrained(reference, tmp_path / "adapter")(TOKENS).logits
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_equal_peft(ours, reference, tmp_path):
    with_random_additions(ours)
    save_adapter(ours, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(reference, tmp_path / "adapter", is_trainable=True)
    ours(TOKENS, labels=TOKENS).loss.backward()
    model(TOKENS, labels=TOKENS).loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    layout = ForeignLayout(ours, select_family(ours.config))
    for name, layer in lora_layers(ours).items():
        for parameter, part in ((layer.lora_a, "A"), (layer.lora_b, "B")):
            foreign = layout.by_native[f"{name}.weight"].foreign[0].removesuffix(".weight")
            expected = found[f"base_model.model.{foreign}.lora_{part}.default.weight"]
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-5)
    rows = [name for name in found if "trainable_tokens_delta" in name]
    gradients = [addition.grad for name, addition in ours.named_parameters() if name.endswith(".delta")]
    assert len(rows) == len(gradients) >= 1
    for gradient in gradients:
        assert any(torch.allclose(gradient, found[name], rtol=1e-5, atol=1e-5) for name in rows)


def test_initialization_equals_peft(ours, reference):
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj"], init_lora_weights=True)
    torch.manual_seed(5)
    model = peft.get_peft_model(reference, config)
    first = model.base_model.model.model.layers[0].self_attn.q_proj
    apply_lora(ours, RANK, ALPHA)
    layer = next(iter(lora_layers(ours).values()))
    assert layer.scale == first.scaling["default"]
    assert not layer.lora_b.any()
    spread = layer.lora_a.abs().max().item(), first.lora_A["default"].weight.abs().max().item()
    bound = 32**-0.5  # kaiming_uniform with a = sqrt(5): 1 / sqrt(in)
    assert all(0.8 * bound < largest <= bound for largest in spread)


def test_adapter_config_names_the_target_modules(ours, tmp_path):
    save_adapter(with_random_additions(ours), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)
