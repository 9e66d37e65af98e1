"""Weight maps: round trips, expected shapes and messages about tensors that do not fit."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.interop.row_order import grouped_rows, map_interleaved
from groundup.interop.weight_map import (
    check_tensors,
    convert_to_foreign,
    convert_to_native,
    expected_shapes,
    map_concatenated,
    map_identical,
    map_names,
    map_stacked,
    map_transposed,
)

sizes = st.integers(1, 7)


class InMemoryTensors:
    """A tensor source in memory."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.path = Path("memory")
        self.tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]


@given(heads=sizes, half=sizes, width=sizes, data=st.data())
@settings(deadline=None)
def test_every_map_round_trips(heads: int, half: int, width: int, data):
    rows = heads * 2 * half
    tensor_map = data.draw(
        st.sampled_from(
            [
                map_identical("a", "x"),
                map_transposed("a", "x"),
                map_stacked("a", [f"x{i}" for i in range(rows)]),
                map_interleaved("a", "x", heads, 2 * half),
                map_interleaved("a", "x", heads, 2 * half, 2),
                map_concatenated(["a", "b", "c"], "x", [rows] * 3, order=grouped_rows(heads, heads, 2 * half)),
                map_concatenated(["a", "b"], "x", [rows, rows]),
                map_concatenated(["a", "b"], "x", [rows, rows], transpose=True),
            ]
        )
    )
    native = {name: torch.randn(rows, width) for name in tensor_map.native}
    foreign = dict(convert_to_foreign([tensor_map], native))
    back = dict(convert_to_native([tensor_map], InMemoryTensors(foreign)))
    assert back.keys() == native.keys()
    assert all(torch.equal(back[name], native[name]) for name in native)
    assert expected_shapes([tensor_map], native) == {n: tuple(t.shape) for n, t in foreign.items()}


def test_interleaved_rows_equal_llama_cpp():
    """llama.cpp's convert_hf_to_gguf.py: reshape(n_head, 2, rows // n_head // 2, ...).swapaxes(1, 2)."""
    weight = torch.randn(12, 5)
    expected = weight.numpy().reshape(3, 2, 2, 5).swapaxes(1, 2).reshape(12, 5)
    assert (dict(convert_to_foreign([map_interleaved("a", "x", 3, 4)], {"a": weight}))["x"].numpy() == expected).all()


def test_first_matching_prefix_renames():
    table = {"blocks.*.a.": "layers.*.first.", "blocks.*.": "layers.*.other."}
    pairs = list(map_names(["blocks.3.a.w", "blocks.11.b"], table))
    assert [pair.foreign[0] for pair in pairs] == ["layers.3.first.w", "layers.11.other.b"]


def test_unmapped_tensor_is_refused():
    with pytest.raises(UserError, match=r"tensor c\.w has no counterpart"):
        list(map_names(["c.w"], {"a.": "b."}))


EXPECTED = {"a": (2, 3), "b": (4,)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a": (2, 3)}, r"tensor b is missing, expected shape \[4\]"),
        ({"a": (2, 3), "b": (5,)}, r"tensor b has shape \[5\], expected \[4\]"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, r"tensor c of shape \[1\] is not part of this model"),
        ({"a": (3, 2), "B": (4,)}, r"tensor b is missing, expected shape \[4\]; the file has B instead"),
    ],
)
def test_missing_extra_and_misshaped_tensors_are_refused(shapes, message: str):
    with pytest.raises(UserError, match=message):
        check_tensors(EXPECTED, InMemoryTensors({name: torch.zeros(shape) for name, shape in shapes.items()}))


def test_ignored_tensors_are_accepted():
    check_tensors(
        EXPECTED,
        InMemoryTensors({name: torch.zeros(shape) for name, shape in (EXPECTED | {"x.inv_freq": (2,)}).items()}),
        ("*.inv_freq",),
    )
