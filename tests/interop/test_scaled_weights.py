"""float8 and MXFP4 weights: against transformers' conversion, and against the products written out."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from groundup.artifacts.errors import UserError
from groundup.interop import load_huggingface
from groundup.interop.model_loading import is_quantized
from groundup.interop.scaled_weights import Float8Source, decode_mxfp4, multiply_blocks

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "intermediate_size": 96, "max_position_embeddings": 64,
}  # fmt: skip
TOKENS = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))


def make_reference(model_type: str, folder: Path, **fields):
    """A model of transformers in `folder`, and its tensors."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES, **fields)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model, load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], quantization: dict) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": quantization}))


def logits_with(model, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
        return model(TOKENS).logits


def test_mxfp4_equals_transformers_conversion():
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(256, (2, 6, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (2, 6, 3), dtype=torch.uint8, generator=generator)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    ours = torch.stack([decode_mxfp4(*pair).T for pair in zip(blocks, scales, strict=True)])
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_gpt_oss_in_mxfp4_has_the_logits_of_its_converted_weights(tmp_path: Path, dtype):
    model, tensors = make_reference("gpt_oss", tmp_path, num_local_experts=3, num_experts_per_tok=2)
    generator = torch.Generator().manual_seed(1)
    converted = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(122, 125, blocks.shape[:-1], dtype=torch.uint8, generator=generator)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        converted[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    rewrite(tmp_path, tensors, {"quant_method": "mxfp4"})
    ours = load_huggingface(tmp_path, dtype=dtype)
    assert not is_quantized(tmp_path)
    assert ours.blocks[0].feed_forward.experts.up_proj.dtype == (torch.float32 if dtype else torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(ours.float()(TOKENS).logits, logits_with(model, converted), rtol=1e-4, atol=1e-4)


def float8_rows(weight, size):
    scales = weight.abs().amax(dim=1, keepdim=True) / 448
    return (weight / scales).to(torch.float8_e4m3fn), scales, scales.expand_as(weight)


def float8_tensor(weight, size):
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale, scale.expand_as(weight)


def float8_blocks(weight, size):
    scales = torch.rand(-(-weight.shape[0] // size), -(-weight.shape[1] // size)) / 100 + 0.001
    grid = scales.repeat_interleave(size, 0)[: weight.shape[0]].repeat_interleave(size, 1)[:, : weight.shape[1]]
    return (weight / grid).clamp(-448, 448).to(torch.float8_e4m3fn), scales, grid


@pytest.mark.parametrize(
    ("quantize", "suffix", "described"),
    [
        (float8_blocks, "_scale_inv", {"quant_method": "fp8", "weight_block_size": [40, 40]}),
        (float8_tensor, "_scale", {"quant_method": "fp8", "activation_scheme": "static"}),
        (float8_rows, "_scale", {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    ],
)
def test_float8_weights_have_the_logits_of_the_products(tmp_path: Path, quantize, suffix, described):
    model, tensors = make_reference("llama", tmp_path)
    products = {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        values, scales, grid = quantize(tensors[name], 40)  # 64 and 96 are no multiples of 40: blocks at the edge
        tensors |= {name: values, name + suffix: scales, name.replace(".weight", ".input_scale"): torch.ones(1)}
        products[name] = values.float() * grid
    rewrite(tmp_path, tensors, described)
    ours = load_huggingface(tmp_path, dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS).logits, logits_with(model, products), rtol=1e-4, atol=1e-4)


def test_scales_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"w has scales of shape \[2, 2\], expected \[1, 1\]"):
        multiply_blocks(torch.ones(64, 64), torch.ones(2, 2), [128, 128], "w")


def test_float8_without_scales_is_refused():
    class Source:
        path = Path("folder")
        shapes: ClassVar = {"a.weight": (2, 2)}

        def read(self, name):
            return torch.ones(2, 2).to(torch.float8_e4m3fn)

    with pytest.raises(UserError, match=r"a\.weight is torch\.float8_e4m3fn without a\.weight_scale"):
        Float8Source(Source(), torch.bfloat16).read("a.weight")
