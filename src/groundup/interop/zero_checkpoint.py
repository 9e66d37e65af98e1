"""DeepSpeed ZeRO checkpoints: the float32 weights of a `save_checkpoint` folder, read without DeepSpeed.

ZeRO stores on every rank a flat range of each parameter group, without names; names and shapes are in another file. The files
are pickles: PyTorch's weights-only reader loads them without running code, with stand-ins for three DeepSpeed classes. A file
with anything else is refused.
"""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError


class _Record:
    """Stand-in for a DeepSpeed class: keeps its state, has no methods."""

    def __init__(self, *_: Any): ...


class _Stage(int):
    """Stand-in for a DeepSpeed enumeration: its number."""


SAFE_GLOBALS: list[Any] = [
    (_Record, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Record, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


def is_zero_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a ZeRO checkpoint: a file `latest` and optimizer states of ranks."""
    return (folder / "latest").is_file() and any(folder.glob("*/*zero_pp_rank_*_optim_states.pt"))


class ZeroCheckpoint:
    """A tensor source of the newest checkpoint in a folder, with the names of the trained model.

    Raises UserError for missing files, files with more than tensors and names, and files of different runs.

    Attributes:
        path: the folder.
        shapes: shape by tensor name.
    """

    def __init__(self, folder: Path):
        self.path = folder
        checkpoint = folder / _latest_tag(folder)
        model = _read(_rank_files(checkpoint, "*mp_rank_*_model_states.pt")[0])
        groups: list[dict[str, torch.Size]] = _require(model, "param_shapes", checkpoint)
        if _require(model, "mp_world_size", checkpoint) != 1 or model.get("frozen_param_shapes"):
            raise UserError(
                f"{checkpoint}: tensor-parallel, or with frozen weights; expected plain ZeRO",
                hint="convert it to safetensors with DeepSpeed's zero_to_fp32.py in the folder",
            )
        files = _rank_files(checkpoint, "*zero_pp_rank_*_optim_states.pt")
        states = [_require(_read(file), "optimizer_state_dict", file) for file in files]
        if (expected := model.get("dp_world_size")) != len(states):
            raise UserError(
                f"{checkpoint}: states of {len(states)} ranks, expected {expected}", hint="copy all its files"
            )
        self.shapes = {name: tuple(shape) for group in groups for name, shape in group.items()}
        self._weights: dict[str, Tensor] = {}
        stage = int(states[0].get("zero_stage", 0))
        for number, group in enumerate(groups):
            key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            parts = [[part.detach() for part in _require(state, key, checkpoint)] for state in states]
            if stage == 3:  # each weight is sharded over all ranks; sub-groups are concatenated
                if number == 0:
                    flat = [torch.cat(part).view(-1) for part in parts]
                    self._weights = _unflatten_zero3(
                        flat, [item for each in groups for item in each.items()], checkpoint
                    )
            else:  # each group is sharded over all ranks
                self._weights |= _unflatten_zero2(torch.cat([part[number] for part in parts]), group, checkpoint)

    def read(self, name: str) -> Tensor:
        """The tensor `name`, float32."""
        return self._weights[name]


def _unflatten_zero3(flat: list[Tensor], items: list[tuple[str, torch.Size]], folder: Path) -> dict[str, Tensor]:
    """ZeRO-3: each weight in equal shards on all ranks, the last one padded."""
    weights, begin = {}, 0
    for name, shape in items:
        size = -(-shape.numel() // len(flat))
        if begin + size > flat[0].numel():
            raise _truncated(name, folder)
        weight = torch.cat([part[begin : begin + size] for part in flat])
        weights[name] = weight[: shape.numel()].view(shape)
        begin += size
    return weights


def _unflatten_zero2(flat: Tensor, group: dict[str, torch.Size], folder: Path) -> dict[str, Tensor]:
    """ZeRO-1 and 2: the weights of a group concatenated over all ranks, then padding."""
    weights, begin = {}, 0
    for name, shape in group.items():
        if begin + shape.numel() > flat.numel():
            raise _truncated(name, folder)
        weights[name] = flat[begin : begin + shape.numel()].view(shape)
        begin += shape.numel()
    return weights


def _latest_tag(folder: Path) -> str:
    name = (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}", name) or not (folder / name).is_dir():
        raise UserError(
            f"{folder / 'latest'}: names {name[:80]!r}, expected a folder beside it", hint="copy all its files"
        )
    return name


def _rank_files(folder: Path, pattern: str) -> list[Path]:
    """Files of all ranks, in order. Raises UserError if there is none."""
    files = sorted(folder.glob(pattern), key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])
    if not files:
        raise UserError(f"{folder}: no {pattern}, expected DeepSpeed's states", hint="copy all its files")
    return files


def _read(file: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{file}: contains {name.group(1) if name else 'more than tensors'}, expected tensors and names only",
            hint="the file could run code; use the safetensors version of the model",
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: damaged: {str(error).splitlines()[0]}", hint="copy it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{file}: holds a {type(state).__name__}, expected DeepSpeed's state")
    return state


def _require(state: dict[str, Any], key: str, folder: Path) -> Any:
    if key not in state:
        raise UserError(
            f"{folder}: no {key!r} in its states", hint="unknown layout: DeepSpeed 0.14 to 0.19 are supported"
        )
    return state[key]


def _truncated(name: str, folder: Path) -> UserError:
    return UserError(f"{folder}: ends before {name}", hint="copy all its files")
