"""A state in files that do not depend on the layout: written by some ranks, read by any others.

Every rank writes its own pieces of tensors as safetensors, with their places in the whole tensors in the file's header,
as PyTorch's distributed checkpoint does for Hugging Face's layout; and PyTorch's reader puts together what a rank
needs. (Its own default format would be pickled.) Whole tensors are pieces too, so one device's files are no exception.
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

from groundup.model.serialization import save_tensors
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import is_sharded


@dataclass(frozen=True)
class TensorShard:
    """A part of a tensor, and where it begins in the whole."""

    tensor: Tensor
    offsets: tuple[int, ...]


def collect_shards(state: dict[str, Tensor], mesh: Mesh | None = None) -> dict[str, TensorShard]:
    """Copies, on the CPU, of what this rank has to write: each piece is written by the first of those that have it."""
    pieces = {}
    for name, tensor in state.items():
        if mesh is not None and not _is_primary_copy(tensor, mesh):
            continue
        here, begins = tensor, (0,) * tensor.ndim
        if isinstance(tensor, DTensor):
            here = tensor.to_local()
            _, begins = compute_local_shape_and_global_offset(
                tensor.shape, tensor.device_mesh, tensor.placements
            )
        if here.numel() or not tensor.numel():
            pieces[name] = TensorShard(here.detach().to("cpu", copy=True).contiguous(), tuple(begins))
    return pieces


def rank_file_path(folder: Path, rank: int, world_size: int) -> Path:
    """What one rank of so many writes. The name tells how many files there must be: a part of a checkpoint looks whole."""
    return folder / f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


def write_shards(shards: dict[str, TensorShard], path: Path, metadata: Mapping[str, str]) -> None:
    """Write the pieces of one rank as one file, `facts` in its header. Raises OSError."""
    places = {name: {"saved_offsets": list(piece.offsets)} for name, piece in shards.items()}
    header = {"format": "pt", "DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0"}
    try:
        save_tensors(
            {name: piece.tensor for name, piece in shards.items()}, path, metadata={**header, **metadata}
        )
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_checkpoint_metadata(folder: Path) -> dict[str, str]:
    """What rank 0 wrote in the header of its file."""
    with safe_open(min(folder.glob("rank-*.safetensors")), "pt") as file:
        return file.metadata() or {}


def read_shapes(folder: Path) -> dict[str, torch.Size]:
    """The whole shape of every tensor in the files of `folder`. Raises OSError or SafetensorError."""
    ranks = list(folder.glob("rank-*.safetensors"))
    if not ranks:
        raise OSError(f"{folder}: no rank's file")
    if len(ranks) != (written := int(ranks[0].stem.rpartition("-")[2])):
        raise OSError(f"{folder}: the files of {len(ranks)} ranks, and {written} wrote")
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    shapes = {}
    for name, entry in found.items():
        size: Any = entry.size  # type: ignore[union-attr]
        held = sum(chunk.sizes.numel() for chunk in entry.chunks)  # type: ignore[union-attr]
        if held != size.numel():
            raise OSError(
                f"{folder}: {name}: {held} of {size.numel()} numbers, the file of a rank is missing"
            )
        shapes[name] = size
    return shapes


def load_into(folder: Path, state: dict[str, Tensor]) -> None:
    """Fill the tensors of `state` in place, each rank what it holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "torch.distributed is disabled"
        )  # which is meant, and the same for each rank
        dcp.load(dict(state), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _is_primary_copy(tensor: Tensor, mesh: Mesh) -> bool:
    """Whether this rank is the first of all that hold the same piece."""
    axes = ("replicate", "data", "tensor")
    if is_sharded(tensor, "expert"):
        axes = ("replicate", "expert_shard", "expert", "tensor")
    return all(is_sharded(tensor, axis) or mesh.rank(axis) == 0 for axis in axes)
