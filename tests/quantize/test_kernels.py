"""Layers in a kernel's layout against layers that dequantize and multiply."""

import copy
import os
from typing import Any

import pytest
import torch

from groundup.generate import generate
from groundup.generate.native.native_library import _is_foreign, load_native
from groundup.generate.native.native_matrix import native_library
from groundup.model.token_rows import PackedTable
from groundup.quantize import QuantizationScheme, QuantizationSettings, QuantizedLinear, QuantizedWeight, quantize_model
from groundup.quantize.kernels import int4_cpu, native_code
from groundup.quantize.kernels.int4_cpu import Int4Linear, is_supported
from groundup.quantize.kernels.int4_layout import TILE_ROWS, pack_tiles, tile_layout, unpack_tiles
from groundup.quantize.kernels.kernel_choice import pack_token_matrices, use_kernels
from groundup.quantize.quantization_grid import round_to_nearest

SCHEMES = [
    QuantizationScheme(4, 64),
    QuantizationScheme(4, 32, False),
    QuantizationScheme(4, -1),
    QuantizationScheme(3, 128, False),
    QuantizationScheme(8, 64),
    QuantizationScheme(8, -1, False),
    QuantizationScheme(6, 96),
    QuantizationScheme(5, 64, False),
]
"""Groups of 128 leave a last one of 64 in rows of 192."""


def quantized_layer(scheme, out_features=48, in_features=192, bias=True):
    torch.manual_seed(0)
    weight = round_to_nearest(torch.randn(out_features, in_features), scheme)
    return QuantizedLinear.from_weight(weight, torch.randn(out_features) if bias else None)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_products_equal_those_of_the_dequantized_weight(scheme, rows):
    exact = quantized_layer(scheme)
    assert is_supported(exact)
    x = torch.randn(rows, 1, 192)
    found, expected = Int4Linear(exact)(x), exact(x)
    assert found.shape == expected.shape
    assert found.dtype is x.dtype
    assert relative_error(found, expected) < 0.006  # of bfloat16
    assert Int4Linear(exact)(x[0, 0]).shape == (48,)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_dequantization_from_the_kernel_layout(scheme, monkeypatch):
    exact = quantized_layer(scheme, out_features=70)
    layer = Int4Linear(exact)
    assert relative_error(layer.dequantize(), exact.dequantize()) < 0.005
    native = layer.dequantize()
    monkeypatch.setattr(native_code, "_function", lambda: None)
    assert torch.equal(layer.dequantize(), native)
    assert relative_error(layer(torch.eye(192)[:40]) - exact.bias, exact.dequantize().T[:40]) < 0.006


@pytest.mark.parametrize("variables", [{"GROUNDUP_NATIVE": "0"}, {"CC": "no-such-compiler"}, {"CC": "false"}], ids=str)
def test_without_native_code(tmp_path, monkeypatch, variables):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_native.__wrapped__(native_code.SOURCE) is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_library_is_compiled_anew_and_that_of_another_user_is_not_loaded(tmp_path, monkeypatch):
    if native_library() is None:
        pytest.skip("no C compiler")
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }")

    def load(content) -> Any:
        """With a library of this content in a cache folder of its own: a loaded one would not be read again."""
        folder = tmp_path / str(content)
        folder.mkdir()
        if content is not None:
            (folder / name).write_bytes(content)
        monkeypatch.setenv("GROUNDUP_CACHE", str(folder))
        return load_native.__wrapped__(source), folder

    loaded, folder = load(None)
    (name,) = (path.name for path in folder.iterdir())
    assert loaded.one() == 1
    assert load(b"damaged")[0].one() == 1
    monkeypatch.setattr("groundup.generate.native.native_library._is_foreign", lambda library: library.name == name)
    loaded, folder = load(b"of another user")
    assert loaded.one() == 1
    assert (folder / name).read_bytes() == b"of another user"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files")
def test_files_of_other_users_are_known(tmp_path, monkeypatch):
    library = tmp_path / "library.so"
    assert not _is_foreign(library)
    library.touch()
    assert not _is_foreign(library)
    if os.geteuid() == 0:
        os.chown(library, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert _is_foreign(library)


def test_without_a_home_folder_nothing_is_compiled(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("groundup.generate.native.native_library.default_cache", no_home)
    assert load_native.__wrapped__(native_code.SOURCE) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_layer_in_another_dtype_computes_the_same(dtype):
    layer = Int4Linear(quantized_layer(SCHEMES[0]))
    x = torch.randn(3, 192)
    expected = copy.deepcopy(layer)(x)
    torch.testing.assert_close(layer.to(dtype)(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [3, 40])
def test_gradients_of_the_input(rows):
    layer = Int4Linear(quantized_layer(SCHEMES[0]))
    x = torch.randn(rows, 192, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand(rows, -1), rtol=1e-3, atol=1e-3)


def test_no_rows_and_other_devices():
    layer = Int4Linear(quantized_layer(SCHEMES[0]))
    assert layer(torch.randn(0, 192)).shape == (0, layer.out_features)
    assert layer.to("meta")(torch.randn(1, 192, device="meta")).device.type == "meta"  # no address is read


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_compiled_products(scheme, monkeypatch):
    if native_library() is None:
        pytest.skip("no C compiler")
    layer = Int4Linear(quantized_layer(scheme, out_features=130))
    x = torch.randn(40, 192, dtype=torch.bfloat16)
    together = layer(x)
    assert layer.bias is not None
    exact = x.float() @ layer.dequantize().T + layer.bias
    assert relative_error(together, exact) < 0.005
    for rows in (1, 3, 16, 17):  # a row does not depend on those beside it
        assert torch.equal(layer(x[:rows]), together[:rows])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(layer(x), together)
    monkeypatch.setattr(int4_cpu, "native_library", lambda: None)
    assert 0 < relative_error(layer(x), together) < 0.006


def test_threads_divide_the_tiles(monkeypatch):
    if native_library() is None:
        pytest.skip("no C compiler")
    layer = Int4Linear(quantized_layer(SCHEMES[0], out_features=5 * TILE_ROWS))
    expected = layer.dequantize()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(layer.dequantize(), expected)


def test_permuted_columns():
    weight = round_to_nearest(torch.randn(48, 192), QuantizationScheme(4, 64))
    order = torch.randperm(192)
    g_idx = weight.scheme.group_index(192)[order].int()
    exact = QuantizedLinear.from_weight(
        QuantizedWeight(weight.codes[:, order], weight.scale, weight.zero, weight.scheme, g_idx)
    )
    layer, x = Int4Linear(exact), torch.randn(3, 192)
    assert relative_error(layer(x), exact(x)) < 0.006
    assert relative_error(layer.dequantize(), exact.dequantize()) < 0.005
    exact.g_idx = torch.cat([g_idx[:-1], g_idx[:1]])  # groups of other sizes
    assert is_supported(exact) == torch.equal(exact.g_idx.sort().values, g_idx.sort().values)


def test_tiles():
    codes = torch.randint(16, (2 * TILE_ROWS, 34), dtype=torch.uint8)
    assert tile_layout() is not None
    assert torch.equal(unpack_tiles(pack_tiles(codes)), codes)
    assert torch.equal(pack_tiles(codes), torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1))


def test_other_layers_dequantize():
    assert not is_supported(QuantizedLinear(64, 32, QuantizationScheme(4, 16)))
    assert not is_supported(QuantizedLinear(48, 32, QuantizationScheme(4, -1)))
    assert not is_supported(QuantizedLinear(64, 32, QuantizationScheme(4, 32)).to("meta"))


def test_a_model_keeps_one_copy_of_its_weights(decoder, windows, copy_of):
    quantize_model(decoder, QuantizationSettings("rtn", QuantizationScheme(4, 32)))
    with torch.no_grad():
        expected = decoder(windows[:1, :8]).logits
        fast = use_kernels(copy_of(decoder))
        found = fast(windows[:1, :8]).logits
    assert 0 < relative_error(found, expected) < 0.05  # token matrices have 6 bits
    assert not any(isinstance(module, QuantizedLinear) for module in fast.modules())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rows_equal_those_of_the_dequantized_weight(scheme):
    layer = Int4Linear(quantized_layer(scheme, out_features=130))
    index = torch.tensor([[0, 129, 64], [33, 33, 1]])
    torch.testing.assert_close(layer.read_rows(index), layer.dequantize()[index], rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head_are_rounded_to_8_bits(make_decoder, windows, copy_of, tied):
    model = make_decoder(tie_embeddings=tied, head_bias=True)
    fast = copy_of(model)
    pack_token_matrices(fast)
    assert isinstance(fast.head.table, PackedTable)
    assert (fast.head.table is fast.embedding.tokens) == tied
    with torch.no_grad():
        assert relative_error(fast.embedding.tokens.weight, model.embedding.tokens.weight) < 0.01
        assert relative_error(fast.head.table.weight, model.head.weight) < 0.01
        assert 0 < relative_error(fast(windows[:1, :8]).logits, model(windows[:1, :8]).logits) < 0.02
        loss, expected = (each(windows[:1, :8], labels=windows[:1, :8]).loss for each in (fast, model))
    assert abs(loss - expected) < 0.01
    assert generate(fast, [1, 2, 3], max_tokens=4)
