"""Safetensors folders: one file, or shards with an index, read lazily and written in order.

Nothing is ever unpickled: a folder with only `.bin` or `.pt` files is refused.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import TypedDict

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_file
from groundup.interop.mapped_safetensors import MappedSafetensors
from groundup.interop.pickled_weights import conversion_command, find_pickles
from groundup.model.serialization import save_tensors

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
SHARD = re.compile(r"([\w.-]+)-(\d+)-of-(\d+)\.safetensors")
MAX_SHARD_BYTES = 5 * 10**9
"""Shard size, as in transformers."""


class TensorSource(Protocol):
    """Named tensors: shapes without reading, values one at a time."""

    path: Path
    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str) -> Tensor: ...


class SafetensorsFolder:
    """The tensors of a folder. Raises UserError for missing or damaged files, and for pickles.

    Attributes:
        path: the folder.
        shapes: shape by tensor name, over all shards.
    """

    def __init__(self, path: Path):
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._opened: dict[str, MappedSafetensors] = {}
        self._file_of: dict[str, str] = {}
        for file in _shards(path):
            self._opened[file] = MappedSafetensors(path / file)
            for name, shape in self._opened[file].shapes.items():
                if name in self._file_of:
                    raise UserError(
                        f"{path}: tensor {name} is in both {self._file_of[name]} and {file}, expected once",
                        hint="one of the files is a copy of another, or of another version: download the folder again",
                    )
                self._file_of[name], self.shapes[name] = file, shape

    def read(self, name: str) -> Tensor:
        """The tensor `name` in the dtype of the file: a view of the mapped file."""
        return self._opened[self._file_of[name]].read(name)


def write_safetensors(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[Path]:
    """Write named tensors as `model.safetensors`, or as shards with an index above `max_shard_bytes`.

    The tensors are consumed one by one, so that only one shard is in memory. Earlier weights of the folder are replaced.
    Returns the files written.
    """
    shard: dict[str, Tensor] = {}
    partial_files: list[Path] = []
    shard_names: list[list[str]] = []
    total = 0

    def flush() -> None:
        partial_files.append(folder / f".shard-{len(partial_files) + 1}.safetensors")
        shard_names.append(list(shard))
        save_tensors(shard, partial_files[-1])
        shard.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shard and sum(t.numel() * t.element_size() for t in shard.values()) + size > max_shard_bytes:
            flush()
        shard[name] = tensor.detach().contiguous()
        total += size
    flush()

    for older in (*folder.glob("model*.safetensors"), folder / INDEX_FILE):  # so that no reader mixes old and new
        older.unlink(missing_ok=True)
    if len(partial_files) == 1:
        return [partial_files[0].rename(folder / SINGLE_FILE)]
    names = [f"model-{i:05d}-of-{len(partial_files):05d}.safetensors" for i in range(1, len(partial_files) + 1)]
    files = [partial_file.rename(folder / name) for partial_file, name in zip(partial_files, names, strict=True)]
    weight_map = {
        tensor: name for name, tensor_names in zip(names, shard_names, strict=True) for tensor in tensor_names
    }
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*files, folder / INDEX_FILE]


class _SafetensorsIndex(TypedDict):
    weight_map: dict[str, str]


def _shards(folder: Path) -> list[str]:
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        files = sorted(set(read_json_file(_SafetensorsIndex, folder / INDEX_FILE)["weight_map"].values()))
        for file in files:
            if not re.fullmatch(r"[\w][\w.-]*\.safetensors", file):
                raise UserError(f"{folder / INDEX_FILE}: {file!r} is not a .safetensors file name")
            if not (folder / file).is_file():
                raise UserError(f"{folder}: shard {file} is missing, {INDEX_FILE} names it", hint="download it again")
        return files
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if others:
        return _shards_without_index(folder, others)
    if pickled := find_pickles(folder):
        raise UserError(
            f"{folder}: {pickled[0]} is a pickle, which can run code when opened; expected safetensors",
            hint=f"take the safetensors version of the model, or convert it: {conversion_command(folder, pickled)}",
        )
    raise UserError(f"{folder}: no weights, expected {SINGLE_FILE} or {INDEX_FILE}")


def _shards_without_index(folder: Path, files: list[str]) -> list[str]:
    """Shards that number themselves: all of NAME-00001-of-00003.safetensors."""
    parts = [SHARD.fullmatch(file) for file in files]
    if not all(parts) or len({(part[1], part[3]) for part in parts if part}) > 1:
        raise UserError(
            f"{folder}: {len(files)} .safetensors files and no {INDEX_FILE}, expected {SINGLE_FILE} or an index",
            hint=f"download {INDEX_FILE} too",
        )
    first = parts[0]
    assert first
    for number in range(1, int(first[3]) + 1):
        file = f"{first[1]}-{number:0{len(first[2])}}-of-{first[3]}.safetensors"
        if file not in files:
            raise UserError(f"{folder}: shard {file} is missing", hint="download it again")
    return files


def cast_floating(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`tensor` as `dtype`; integers, and everything when dtype is None, stay as they are."""
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
