"""Packed types of GGUF: the bytes of the gguf package, rounding, the type of each tensor, importance."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from groundup.interop.gguf import export_gguf, load_gguf, measure_importance
from groundup.interop.gguf.gguf_file import GGUFFile
from groundup.interop.gguf.importance_matrix import read_importance_matrix, write_importance_matrix
from groundup.interop.gguf.types import gguf_blocks
from groundup.interop.gguf.types.block_rounding import quantize_rows
from groundup.interop.gguf.types.gguf_blocks import BLOCK_TYPES, dequantize_blocks
from groundup.interop.gguf.types.tensor_types import TensorTypes, has_more_bits
from groundup.interop.weight_map import map_identical
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "num_layers": 1, "num_heads": 2, "intermediate_size": 256, "context_length": 64,
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_blocks_are_unpacked_as_by_the_gguf_package_and_packed_again(kind: Kind):
    block = BLOCK_TYPES[kind]
    packed = torch.randint(0, 256, (16, 2 * block.block_bytes), generator=torch.Generator().manual_seed(0)).byte()
    with np.errstate(all="ignore"):  # some of the float16 numbers are infinite
        expected = torch.from_numpy(gguf.dequantize(packed.numpy(), kind))
    torch.testing.assert_close(dequantize_blocks(packed, block), expected, rtol=0, atol=0, equal_nan=True)
    assert block.pack(block.unpack(packed.view(-1, block.block_bytes))).view_as(packed).equal(packed)


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_rounding_is_nearer_than_a_plain_grid_and_nearest_where_it_matters(kind: Kind):
    block, generator = BLOCK_TYPES[kind], torch.Generator().manual_seed(0)
    rows = torch.randn(24, 512, generator=generator) * torch.rand(24, 1, generator=generator)
    importance = torch.rand(1, 512, generator=generator) ** 4 + 1e-3
    plain, weighted = (
        (dequantize_blocks(quantize_rows(rows, block, each), block) - rows).square() for each in (None, importance)
    )
    groups = rows.view(24, -1, block.group)
    lowest, highest = block.codes
    step = groups.abs().amax(2) / -lowest if lowest else (groups.amax(2) - groups.amin(2)) / highest
    if kind is not Kind.Q8_0:
        assert plain.sum() < (step.square() / 12).sum() * block.group  # of values spread evenly over a step
        assert (weighted * importance).sum() < 0.97 * (plain * importance).sum()


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_rows_that_are_constant_zero_or_large_stay_finite(kind: Kind):
    block = BLOCK_TYPES[kind]
    rows = torch.stack([torch.zeros(256), torch.ones(256), -torch.ones(256), torch.full((256,), 1e4)])
    rows = torch.cat([rows, torch.eye(256)[:1], torch.full((1, 256), 1e-20)])
    for importance in (None, torch.zeros(1, 256)):
        found = dequantize_blocks(quantize_rows(rows, block, importance), block)
        torch.testing.assert_close(found, rows, rtol=0.1 if kind is Kind.Q2_K else 0.02, atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "name", "width", "expected"),
    [
        ("q4_k_m", "blk.0.attn_v.weight", 512, Kind.Q6_K),
        ("q4_k_m", "blk.5.ffn_down.weight", 512, Kind.Q6_K),
        ("q4_k_m", "blk.4.ffn_down.weight", 512, Kind.Q4_K),
        ("q4_k_m", "blk.4.ffn_down.weight", 576, Kind.Q5_0),
        ("q4_k_m", "token_embd.weight", 576, Kind.Q8_0),
        ("q4_k_m", "token_embd.weight", 40, Kind.F16),
        ("q4_0", "token_embd.weight", 512, Kind.Q6_K),
        ("q4_0", "token_embd.weight", 576, Kind.Q8_0),
        ("q4_k_s", "blk.3.attn_v.weight", 512, Kind.Q5_K),
        ("q4_k_s", "blk.4.attn_v.weight", 512, Kind.Q4_K),
        ("q3_k_m", "blk.9.attn_output.weight", 512, Kind.Q4_K),
        ("q2_k", "blk.9.ffn_down.weight", 576, Kind.Q4_0),
        ("q6_k", "blk.0.ffn_gate_inp.weight", 512, Kind.F32),
    ],
)
def test_types_of_tensors(dtype: str, name: str, width: int, expected: Kind):
    rule = TensorTypes(dtype, num_layers=24, num_experts=0, queries_per_value=1, tied=True)
    assert rule.type_of(name, (8, width)) == expected
    assert [layer for layer in range(16) if has_more_bits(layer, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


def _exported(tmp_path: Path, dtype: str, **knobs) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**SHAPE, **knobs})).eval()
    windows = torch.randint(0, 300, (4, 32))
    path = tmp_path / f"{dtype}.gguf"
    export_gguf(
        model, train_bpe(["some text to learn"] * 9, 270), path, dtype, None, measure_importance(model, windows)
    )
    return model, path


@pytest.mark.parametrize("moe", [None, {"num_experts": 4, "experts_per_token": 2}], ids=["dense", "experts"])
def test_an_export_holds_what_was_rounded(tmp_path: Path, moe: dict | None):
    model, path = _exported(tmp_path, "q4_k_m", moe=moe, hidden_size=256)
    read = load_gguf(path)[0].state_dict()
    for name, weight in model.state_dict().items():
        assert (read[name] - weight).norm() <= 0.08 * weight.norm(), name
    assert {"Q4_K", "Q6_K", "F32"} <= GGUFFile(path).types()


def test_a_tied_embedding_keeps_eight_bits(tmp_path: Path):
    path = _exported(tmp_path, "q4_0", tie_embeddings=True)[1]
    assert GGUFFile(path).types() == {"Q8_0", "Q4_0", "F32"}


def test_a_failed_export_leaves_the_earlier_file(tmp_path: Path, monkeypatch):
    _, path = _exported(tmp_path, "q4_0")
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("groundup.interop.gguf.gguf_export.quantize_rows", fail)
    with pytest.raises(OSError, match="no space"):
        _exported(tmp_path, "q4_0")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_importance_is_the_mean_square_of_the_inputs(tmp_path: Path):
    torch.manual_seed(0)
    model: Any = build_model(ModelConfig(**SHAPE, moe={"num_experts": 4, "experts_per_token": 2})).eval()
    windows = torch.randint(0, 300, (3, 16))
    importance = measure_importance(model, windows)
    block: Any = model.blocks[0]
    with torch.no_grad():
        x = block.attention_norm(model.embedding(windows, torch.arange(16)[None]))
    torch.testing.assert_close(importance["blocks.0.attention.q_proj.weight"][0], x.flatten(0, 1).square().mean(0))
    experts = importance["blocks.0.feed_forward.experts.down_proj"]
    assert experts.shape == (4, 256)
    assert (experts > 0).all()
    weight_map = [map_identical(name, name.replace("blocks", "blk")) for name in importance]
    write_importance_matrix(tmp_path / "m.gguf", importance, weight_map, 48)
    read = read_importance_matrix(tmp_path / "m.gguf", weight_map)
    assert read.keys() == importance.keys()
    torch.testing.assert_close(dict(read), dict(importance))


def test_chunks_of_rows_are_rounded_as_one(monkeypatch):
    rows = torch.randn(40, 256, generator=torch.Generator().manual_seed(0))
    whole = quantize_rows(rows, gguf_blocks.BLOCK_TYPES[Kind.Q4_K])
    monkeypatch.setattr("groundup.interop.gguf.types.block_rounding.CHUNK_VALUES", 512)
    assert quantize_rows(rows, gguf_blocks.BLOCK_TYPES[Kind.Q4_K]).equal(whole)
