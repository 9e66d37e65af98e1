"""Sharded checkpoints in safetensors: written by the ranks of one layout, read by those of any other.

Every rank writes its chunks of tensors, with their offsets in the full tensors in the file's header, as PyTorch's
distributed checkpoint does for the Hugging Face layout; PyTorch's reader reassembles what a rank needs. (PyTorch's own
default format is pickled.) A full tensor is one chunk, so the files of a single device are the same.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.json_file import read_json_file
from groundup.model.serialization import save_tensors
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import is_sharded

HASHES_FILE = "hashes.json"
"""SHA-256 of the files of all ranks."""


@dataclass(frozen=True)
class TensorShard:
    """A chunk of a tensor, and its offset in each dimension."""

    tensor: Tensor
    offsets: tuple[int, ...]


def collect_shards(state: dict[str, Tensor], mesh: Mesh | None = None) -> dict[str, TensorShard]:
    """CPU copies of the chunks that this rank writes: of ranks with the same chunk, the first one writes it."""
    shards = {}
    for name, tensor in state.items():
        if mesh is not None and not _is_primary_copy(tensor, mesh):
            continue
        local, offsets = tensor, (0,) * tensor.ndim
        if isinstance(tensor, DTensor):
            local = tensor.to_local()
            _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        if local.numel() or not tensor.numel():
            shards[name] = TensorShard(local.detach().to("cpu", copy=True).contiguous(), tuple(offsets))
    return shards


def rank_file_path(folder: Path, rank: int, world_size: int) -> Path:
    """The file of one rank. Its name has the number of files, so that a missing one is noticed."""
    return folder / f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


def write_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Write the SHA-256 of every file of a checkpoint, by file name. Raises OSError."""
    (folder / HASHES_FILE).write_text(json.dumps(hashes, indent=1), encoding="utf-8")


def check_hashes(folder: Path, rank: int, world_size: int) -> None:
    """Compare files with their hashes: rank r reads files r, r + world_size, ... Raises OSError for the first difference."""
    try:
        hashes = read_json_file(dict[str, str], folder / HASHES_FILE)
    except UserError as error:
        raise OSError(error.message) from None
    for name in sorted(hashes)[rank::world_size]:
        if not (folder / name).is_file():
            raise OSError(f"{folder / name}: missing")
        if (found := hash_file(folder / name)) != hashes[name]:
            raise OSError(f"{folder / name}: sha256 {found[:12]}, {HASHES_FILE} has {hashes[name][:12]}")
    if missing := {path.name for path in folder.glob("rank-*.safetensors")} - hashes.keys():
        raise OSError(f"{folder / min(missing)}: not in {HASHES_FILE}")


def write_shards(shards: dict[str, TensorShard], path: Path, metadata: Mapping[str, str]) -> None:
    """Write the chunks of one rank as one file, with `metadata` in its header. Raises OSError."""
    offsets = {name: {"saved_offsets": list(shard.offsets)} for name, shard in shards.items()}
    header = {"format": "pt", "DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", **metadata}
    try:
        save_tensors({name: shard.tensor for name, shard in shards.items()}, path, metadata=header)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_checkpoint_metadata(folder: Path) -> dict[str, str]:
    """The header of rank 0's file."""
    with safe_open(min(folder.glob("rank-*.safetensors")), "pt") as file:
        return file.metadata() or {}


def read_shapes(folder: Path) -> dict[str, torch.Size]:
    """The full shape of every tensor in `folder`. Raises OSError or SafetensorError when files are missing or broken."""
    files = list(folder.glob("rank-*.safetensors"))
    if not files:
        raise OSError(f"{folder}: no file of any rank")
    if len(files) != (expected := int(files[0].stem.rpartition("-")[2])):
        raise OSError(f"{folder}: the files of {len(files)} ranks, expected {expected}")
    shapes = {}
    for name, entry in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata.items():
        size: Any = entry.size  # type: ignore[union-attr]
        numel = sum(chunk.sizes.numel() for chunk in entry.chunks)  # type: ignore[union-attr]
        if numel != size.numel():
            raise OSError(f"{folder}: {name}: {numel} of {size.numel()} numbers, the file of a rank is missing")
        shapes[name] = size
    return shapes


def load_into(folder: Path, state: dict[str, Tensor]) -> None:
    """Fill the tensors of `state` in place, each rank its own chunks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # intended
        dcp.load(dict(state), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _is_primary_copy(tensor: Tensor, mesh: Mesh) -> bool:
    """Whether this rank is the first of those with the same chunk."""
    axes = ("replicate", "data", "tensor")
    if is_sharded(tensor, "expert"):
        axes = ("replicate", "expert_shard", "expert", "tensor")
    return all(is_sharded(tensor, axis) or mesh.rank(axis) == 0 for axis in axes)
