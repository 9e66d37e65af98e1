"""Quantized files of other software: each variant beside a formula that takes its words apart."""

import json

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.huggingface_folder import export_huggingface_quantized, load_huggingface_quantized
from groundup.quantize.formats.packed_source import multiply_out
from groundup.quantize.layers.nf4 import NF4Weight, dequantize_nf4, quantize_nf4
from groundup.quantize.layers.quantized_experts import QuantizedExperts
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight
from groundup.quantize.quantizer import QuantizationSettings, quantize_model

OUT, WIDTH, GROUP = 16, 64, 16


def _draw(*shape, bits=4):
    return torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(sum(shape)))


def _words(codes, bits=4):
    """(rows, n) codes -> (rows, n * bits / 32) words, low bits first."""
    words = torch.zeros(codes.shape[0], codes.shape[1] * bits // 32, dtype=torch.int64)
    for column in range(codes.shape[1]):
        words[:, column * bits // 32] |= codes[:, column].long() << column * bits % 32
    return (words - ((words >> 31) << 32)).int()


def _expected(codes, zeros, scales, g_idx):
    """w = (code - zero of its group) * scale of its group, from codes (out in) and grids (groups out)."""
    return (codes - zeros[g_idx].T) * scales[g_idx].T.float()


@pytest.mark.parametrize("sym", [True, False, None])
@pytest.mark.parametrize("convention", ["gptq", "gptq_v2", None])
@pytest.mark.parametrize("ordered", [True, False])
def test_gptq_zeros_are_those_of_the_tensors(convention, sym, ordered):
    """Whatever the configuration says of symmetry, in both conventions, in the order of activations or not."""
    codes, zeros = _draw(OUT, WIDTH), _draw(WIDTH // GROUP, OUT)
    zeros[0, :3] = torch.tensor([0, 15, 0])
    scales = (0.01 + torch.rand(WIDTH // GROUP, OUT)).half()
    g_idx = torch.arange(WIDTH) // GROUP
    if not ordered:
        g_idx = g_idx[torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))]
    words = _words(zeros)
    tensors = {
        "qweight": _words(codes).T.contiguous(),
        "qzeros": words if convention == "gptq_v2" else words - 0x11111111,
        "scales": scales,
        "g_idx": g_idx.int(),
    }
    config = {"bits": 4, "group_size": GROUP, "sym": sym, "checkpoint_format": convention, "desc_act": not ordered}
    found = FORMATS["gptq"].from_tensors(tensors, config, "layer")
    assert isinstance(found, QuantizedWeight)
    assert not found.scheme.symmetric
    torch.testing.assert_close(found.dequantize(), _expected(codes, zeros, scales, g_idx))
    with pytest.raises(UserError, match="tensors of 4 bits, but bits = 2"):
        FORMATS["gptq"].from_tensors(tensors, config | {"bits": 2}, "layer")
    with pytest.raises(UserError, match="expected 64 below 4"):
        FORMATS["gptq"].from_tensors(tensors | {"g_idx": g_idx.int() + 1}, config, "layer")


@pytest.mark.parametrize(("stored", "convention"), [(8, "gptq"), (7, "gptq_v2")])
def test_symmetric_zeros_of_the_other_convention_are_refused(stored, convention):
    zeros = torch.full((4, OUT), stored)
    tensors = {"qweight": _words(_draw(OUT, WIDTH)).T, "qzeros": _words(zeros), "scales": torch.ones(4, OUT).half()}
    config = {"checkpoint_format": convention}
    with pytest.raises(UserError, match=f"all zeros are {9 if stored == 8 else 7}, expected 8"):
        FORMATS["gptq"].from_tensors(tensors, config, "layer")
    found = FORMATS["gptq"].from_tensors(tensors, config | {"sym": False}, "layer")
    assert isinstance(found, QuantizedWeight)
    assert int(found.zero[0, 0]) == (9 if stored == 8 else 7)


def test_awq_gemv():
    """Words along the input, in their own order, with columns of padding behind the groups."""
    codes, zeros = _draw(OUT, WIDTH), _draw(WIDTH // GROUP, OUT)
    scales = (0.01 + torch.rand(WIDTH // GROUP, OUT)).half()
    padded = torch.nn.functional.pad(zeros.T, (0, 12))
    tensors = {"qweight": _words(codes), "qzeros": _words(padded), "scales": torch.nn.functional.pad(scales.T, (0, 12))}
    config = {"version": "GEMV", "bits": 4, "group_size": GROUP, "zero_point": True}
    assert FORMATS["awq"].weight_shape(tensors, config) == (OUT, WIDTH)
    found = multiply_out(FORMATS["awq"].from_tensors(tensors, config, "layer"))
    torch.testing.assert_close(found, _expected(codes, zeros, scales, torch.arange(WIDTH) // GROUP))


@pytest.mark.parametrize("columns", [1, WIDTH // GROUP, None], ids=("channel", "group", "tensor"))
@pytest.mark.parametrize("zeros", [False, True])
def test_compressed_tensors_int8(columns, zeros):
    codes = (_draw(OUT, WIDTH, bits=8) - 128).to(torch.int8)
    scale = 0.01 + torch.rand(OUT, columns) if columns else torch.tensor([0.02])
    tensors = {"weight": codes, "weight_scale": scale.bfloat16()}
    zero = torch.zeros(scale.shape)
    if zeros:
        tensors["weight_zero_point"] = torch.randint(-9, 9, scale.shape, dtype=torch.int8)
        zero = tensors["weight_zero_point"].float()
    arguments = {"num_bits": 8, "type": "int", "symmetric": not zeros, "strategy": "?", "group_size": None}
    groups = {"a": {"targets": ["Linear"], "weights": arguments, "input_activations": {"num_bits": 8}}}
    config = {"format": "int-quantized", "config_groups": groups}
    FORMATS["compressed-tensors"].check_config(config)
    found = multiply_out(FORMATS["compressed-tensors"].from_tensors(tensors, config, "layer"))
    repeat = WIDTH // (columns or 1)
    grid = [part.repeat_interleave(repeat, -1) for part in (scale.bfloat16().float(), zero)]
    torch.testing.assert_close(found, (codes.float() - grid[1]) * grid[0])


def test_schemes_by_layer_of_compressed_tensors():
    """The group that names a layer stands above the one of all linear layers."""
    layout = FORMATS["compressed-tensors"]
    base = {"type": "int", "symmetric": True, "strategy": "channel"}
    groups = {
        "all": {"targets": ["Linear"], "weights": base | {"num_bits": 4}},
        "some": {"targets": ["re:.*down_proj$"], "weights": base | {"num_bits": 8}},
    }
    config = {"format": "pack-quantized", "config_groups": groups}
    for layer, bits in (("model.layers.0.mlp.up_proj", 4), ("model.layers.0.mlp.down_proj", 8)):
        codes = _draw(OUT, WIDTH, bits=bits)
        tensors = {
            "weight_packed": _words(codes, bits), "weight_scale": torch.ones(OUT, 1), "weight_shape": torch.tensor([OUT, WIDTH])
        }  # fmt: skip
        found = multiply_out(layout.from_tensors(tensors, config, layer))
        assert torch.equal(found, codes - 2.0 ** (bits - 1))


def test_bitsandbytes_layers():
    from groundup.quantize.formats.bitsandbytes_format import nf4_tensors

    layout, weight = FORMATS["bitsandbytes"], torch.randn(OUT, WIDTH, generator=torch.Generator().manual_seed(0))
    packed = quantize_nf4(weight)
    tensors = nf4_tensors(packed, torch.bfloat16)
    assert layout.weight_shape(tensors, {}) == (OUT, WIDTH)
    found = layout.from_tensors(tensors, {}, "layer")
    assert isinstance(found, NF4Weight)
    assert torch.equal(dequantize_nf4(found), dequantize_nf4(packed))
    # scales in float32, without double quantization: code by code
    blocks = weight.reshape(-1, 64)
    state = json.dumps({"blocksize": 64, "shape": [OUT, WIDTH]}).encode()
    plain = {
        "weight": tensors["weight"],
        "weight.absmax": blocks.abs().amax(1),
        "weight.quant_map": tensors["weight.quant_map"],
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }
    values = multiply_out(layout.from_tensors(plain, {}, "layer"))
    for o, i in ((0, 0), (3, 9), (15, 63)):
        byte = int(tensors["weight"].flatten()[(o * WIDTH + i) // 2])
        code = byte >> 4 if i % 2 == 0 else byte & 15
        expected = tensors["weight.quant_map"][code] * plain["weight.absmax"][(o * WIDTH + i) // 64]
        assert values[o, i] == expected
    eight = {"weight": torch.tensor([[127, -64]], dtype=torch.int8), "SCB": torch.tensor([2.0])}
    torch.testing.assert_close(multiply_out(layout.from_tensors(eight, {}, "layer")), torch.tensor([[2.0, -128 / 127]]))


def test_head_that_differs_from_the_embedding_is_untied(make_decoder, windows, tmp_path):
    model = make_decoder(num_kv_heads=2)
    quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    export_huggingface_quantized(model, None, tmp_path, format="gptq", dtype="float32")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    found = load_huggingface_quantized(tmp_path)
    with torch.no_grad():
        assert torch.equal(found(windows).logits, model(windows).logits)


MIXTURES = {
    "mixtral": {"moe": {"num_experts": 4, "experts_per_token": 2}},
    "qwen3": {"qk_norm": True, "moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 64}},
}


@pytest.mark.parametrize("knobs", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("name", ["gptq", "awq", "compressed-tensors"])
def test_experts_are_separate_layers(make_decoder, windows, tmp_path, name, knobs):
    model = make_decoder(num_kv_heads=2, **knobs)
    quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    export_huggingface_quantized(model, None, tmp_path, format=name, dtype="float32")
    described = json.dumps(json.loads((tmp_path / "config.json").read_text())["quantization_config"])
    assert "layers.1" in described  # the routers, which stay float
    found = load_huggingface_quantized(tmp_path)
    assert any(isinstance(module, QuantizedExperts) for module in found.modules())
    assert quantized_layers(found).keys() == quantized_layers(model).keys()
    with torch.no_grad():
        assert torch.equal(found(windows).logits, model(windows).logits)


@pytest.mark.parametrize(
    ("architecture", "format"),
    [("encoder", "compressed-tensors"), *(("encoder_decoder", name) for name in ("gptq", "awq", "compressed-tensors"))],
)
def test_other_architectures_are_refused_in_formats_that_no_engine_opens(tmp_path, format, architecture):
    from groundup.model import build_model
    from groundup.recipe import ModelConfig

    config = ModelConfig(
        architecture=architecture, vocab_size=96, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64,
        context_length=32, **({"num_encoder_layers": 1} if architecture == "encoder_decoder" else {}),
    )  # fmt: skip
    model = build_model(config).eval()
    quantize_model(model, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    with pytest.raises(UserError, match=f"an {architecture.replace('_', '-')} in {format} format") as refused:
        export_huggingface_quantized(model, None, tmp_path, format=format, dtype="float32")
    assert "bitsandbytes" in str(refused.value.hint)
