"""Safetensors folders: single files, shards, damaged files, pickles."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import INDEX_FILE, SINGLE_FILE, SafetensorsFolder, write_safetensors


def tensors(count: int = 5) -> dict[str, torch.Tensor]:
    return {f"t{i}": torch.arange(10.0 * (i + 1)).reshape(-1, 5) for i in range(count)}


@given(limit=st.integers(1, 2000), count=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_round_trip_at_any_shard_size(tmp_path_factory, limit: int, count: int):
    folder = tmp_path_factory.mktemp("shards")
    files = write_safetensors(tensors(count).items(), folder, limit)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in files)
    opened = SafetensorsFolder(folder)
    assert opened.shapes == {name: tuple(tensor.shape) for name, tensor in tensors(count).items()}
    assert all(torch.equal(opened.read(name), tensor) for name, tensor in tensors(count).items())


def test_shard_names_and_sizes(tmp_path: Path):
    files = write_safetensors(tensors().items(), tmp_path, 250)
    assert [file.name for file in files] == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), INDEX_FILE]
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in tensors().values())
    assert set(index["weight_map"]) == set(tensors())


def test_missing_shard_is_refused(tmp_path: Path):
    first, *_ = write_safetensors(tensors().items(), tmp_path, 250)
    first.unlink()
    with pytest.raises(UserError, match=f"shard {first.name} is missing"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", ".x.safetensors", 7]
)
def test_index_with_paths_outside_the_folder_is_refused(tmp_path: Path, name):
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"t": name}}))
    with pytest.raises(UserError, match=r"not a \.safetensors file name|should be a valid string"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_broken_index_is_refused(tmp_path: Path, text: str):
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.99])
def test_truncated_safetensors_are_refused(tmp_path: Path, fraction: float):
    write_safetensors(tensors().items(), tmp_path)
    data = (tmp_path / SINGLE_FILE).read_bytes()
    (tmp_path / SINGLE_FILE).write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(UserError, match=r"not a complete safetensors file.*bytes on disk"):
        SafetensorsFolder(tmp_path)


def test_tensor_in_two_shards_is_refused(tmp_path: Path):
    write_safetensors(tensors().items(), tmp_path, 250)
    name = "model-00001-of-00003.safetensors"
    (tmp_path / "model-00002-of-00003.safetensors").write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(UserError, match="tensor t0 is in both"):
        SafetensorsFolder(tmp_path)


def test_pickle_is_refused(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="is a pickle"):
        SafetensorsFolder(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=f"no weights, expected {SINGLE_FILE}"):
        SafetensorsFolder(tmp_path)
