"""Safetensors folders: one file, or shards with an index, read lazily and written in order.

Nothing is ever unpickled: a folder with only `.bin` or `.pt` files is refused.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_file
from groundup.model.serialization import save_tensors

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
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
        self._opened = {}
        self._file_of: dict[str, str] = {}
        for file in _shards(path):
            self._opened[file] = handle = _open(path / file)
            for name in handle.keys():  # noqa: SIM118 (a safetensors handle is no dict)
                if name in self._file_of:
                    raise UserError(f"{path}: tensor {name} is in both {self._file_of[name]} and {file}, expected once")
                self._file_of[name] = file
                self.shapes[name] = tuple(handle.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The tensor `name` in the dtype of the file."""
        return self._opened[self._file_of[name]].get_tensor(name)


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
        raise UserError(
            f"{folder}: {len(others)} .safetensors files and no {INDEX_FILE}, expected {SINGLE_FILE} or an index"
        )
    if pickled := sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")):
        raise UserError(
            f"{folder}: {pickled[0]} is a pickle, which can run code when opened; expected safetensors",
            hint="use the safetensors version of the model, or convert it if you trust it",
        )
    raise UserError(f"{folder}: no weights, expected {SINGLE_FILE} or {INDEX_FILE}")


def _open(file: Path):
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        size = file.stat().st_size
        raise UserError(
            f"{file}: not a complete safetensors file ({error}; {size:,} bytes on disk)",
            hint="it may be truncated: copy or download it again",
        ) from None


def cast_floating(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`tensor` as `dtype`; integers, and everything when dtype is None, stay as they are."""
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
