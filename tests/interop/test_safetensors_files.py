"""Safetensors folders: single files, shards, damaged files, pickles."""

import json
import pickle
import subprocess
import sys
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


def test_numbered_shards_without_an_index_are_read(tmp_path: Path):
    write_safetensors(tensors().items(), tmp_path, 250)
    (tmp_path / INDEX_FILE).unlink()
    assert SafetensorsFolder(tmp_path).shapes.keys() == tensors().keys()
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"shard model-00002-of-00003\.safetensors is missing"):
        SafetensorsFolder(tmp_path)


def test_tensors_of_an_unaligned_file(tmp_path: Path):
    header = b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    data = len(header).to_bytes(8, "little") + header + torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / SINGLE_FILE).write_bytes(data)
    assert len(header) % 4
    assert SafetensorsFolder(tmp_path).read("t").tolist() == [1.5, -2.0]


def test_a_changed_tensor_keeps_its_values_when_others_are_freed(tmp_path: Path):
    """Tensors are views of the file; pages of freed ones are dropped, never those of a neighbour."""
    stored = {f"t{i}": torch.full((3000,), float(i)) for i in range(5)}
    write_safetensors(stored.items(), tmp_path)
    folder = SafetensorsFolder(tmp_path)
    kept = {name: folder.read(name) for name in ("t1", "t3")}
    for tensor in kept.values():
        tensor.add_(100)
    for name in ("t0", "t2", "t4"):
        assert torch.equal(folder.read(name), stored[name])
    assert all(torch.equal(tensor, stored[name] + 100) for name, tensor in kept.items())
    assert torch.equal(SafetensorsFolder(tmp_path).read("t1"), stored["t1"])


@pytest.mark.parametrize("names", [[f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)], ["the last.ckpt"]])
def test_command_that_converts_pickles(tmp_path: Path, names: list[str]):
    weights = tensors()
    weights["tied"] = weights["t1"]
    for number, name in enumerate(names):
        part = dict(list(weights.items())[number :: len(names)])
        torch.save({"state_dict": part, "epoch": 3} if name.endswith(".ckpt") else part, tmp_path / name)
    (tmp_path / "training_args.bin").write_bytes(pickle.dumps(Path))
    with pytest.raises(UserError, match="is a pickle") as refusal:
        SafetensorsFolder(tmp_path)
    command = str(refusal.value.hint).split("convert it: ")[1]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    converted = SafetensorsFolder(tmp_path)
    assert converted.shapes.keys() == weights.keys()
    assert all(torch.equal(converted.read(name), weights[name]) for name in weights)


def test_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=f"no weights, expected {SINGLE_FILE}"):
        SafetensorsFolder(tmp_path)
