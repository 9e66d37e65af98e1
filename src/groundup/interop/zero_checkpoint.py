"""The weights in a folder that DeepSpeed's `save_checkpoint` wrote, in float32, without DeepSpeed and without its script.

ZeRO leaves on every rank a flat stretch of each group of weights, under no names; names and shapes lie in another file.
The files are pickles. They are read by PyTorch's reader of plain values and tensors, which runs nothing; the three classes
of DeepSpeed's own that stand in them become records without any code. A file with anything else is refused.
"""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError


class _Record:
    """In place of a class of DeepSpeed's: keeps what it was given, does nothing."""

    def __init__(self, *_: Any): ...


class _Stage(int):
    """In place of an enumeration: its number."""


SAFE_GLOBALS: list[Any] = [
    (_Record, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Record, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


def is_zero_checkpoint(folder: Path) -> bool:
    """Whether this is such a folder: it names its newest checkpoint, in which ranks have left their states."""
    return (folder / "latest").is_file() and any(folder.glob("*/*zero_pp_rank_*_optim_states.pt"))


class ZeroCheckpoint:
    """The trained weights of the newest checkpoint of a folder, by the names of the model that DeepSpeed was given.

    Raises UserError where files are missing, hold more than numbers and names, or do not belong together.

    Attributes:
        path: the folder.
        shapes: shape by tensor name.
    """

    def __init__(self, folder: Path):
        self.path = folder
        place = folder / _latest_tag(folder)
        model = _read(_rank_files(place, "*mp_rank_*_model_states.pt")[0])
        groups: list[dict[str, torch.Size]] = _require(model, "param_shapes", place)
        if _require(model, "mp_world_size", place) != 1 or model.get("frozen_param_shapes"):
            raise UserError(
                f"{place}: cut over tensor ranks, or with frozen weights, expected a checkpoint of ZeRO alone",
                hint="turn it into safetensors with the script that DeepSpeed left beside it",
            )
        files = _rank_files(place, "*zero_pp_rank_*_optim_states.pt")
        states = [_require(_read(file), "optimizer_state_dict", file) for file in files]
        if (expected := model.get("dp_world_size")) != len(states):
            raise UserError(
                f"{place}: states of {len(states)} ranks, expected {expected}", hint="copy all its files"
            )
        self.shapes = {name: tuple(shape) for group in groups for name, shape in group.items()}
        self._weights: dict[str, Tensor] = {}
        stage = int(states[0].get("zero_stage", 0))
        for number, group in enumerate(groups):
            key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            parts = [[part.detach() for part in _require(state, key, place)] for state in states]
            if stage == 3:  # of each weight every rank has an equal piece; sub-groups follow one another
                if number == 0:
                    flat = [torch.cat(part).view(-1) for part in parts]
                    self._weights = _unflatten_zero3(
                        flat, [item for each in groups for item in each.items()], place
                    )
            else:  # of the whole group every rank has a stretch
                self._weights |= _unflatten_zero2(torch.cat([part[number] for part in parts]), group, place)

    def read(self, name: str) -> Tensor:
        """The tensor `name`, float32."""
        return self._weights[name]


def _unflatten_zero3(
    flat: list[Tensor], items: list[tuple[str, torch.Size]], folder: Path
) -> dict[str, Tensor]:
    """ZeRO-3: the weights in order, of each a piece on every rank, of equal size (the last one padded)."""
    found, begin = {}, 0
    for name, shape in items:
        size = -(-shape.numel() // len(flat))
        if begin + size > flat[0].numel():
            raise _truncated(name, folder)
        whole = torch.cat([part[begin : begin + size] for part in flat])
        found[name] = whole[: shape.numel()].view(shape)
        begin += size
    return found


def _unflatten_zero2(flat: Tensor, group: dict[str, torch.Size], folder: Path) -> dict[str, Tensor]:
    """ZeRO-1 and 2: the weights of a group one behind the other, over all ranks; what is behind them is padding."""
    found, begin = {}, 0
    for name, shape in group.items():
        if begin + shape.numel() > flat.numel():
            raise _truncated(name, folder)
        found[name] = flat[begin : begin + shape.numel()].view(shape)
        begin += shape.numel()
    return found


def _latest_tag(folder: Path) -> str:
    name = (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or not (folder / name).is_dir():
        raise UserError(
            f"{folder / 'latest'}: names {name[:80]!r}, expected a folder beside it",
            hint="copy all its files",
        )
    return name


def _rank_files(folder: Path, pattern: str) -> list[Path]:
    """Files of the ranks, in the order of their numbers. Raises UserError where there is none."""
    files = sorted(folder.glob(pattern), key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])
    if not files:
        raise UserError(f"{folder}: no {pattern}, expected DeepSpeed's states", hint="copy all its files")
    return files


def _read(file: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{file}: holds {name.group(1) if name else 'more than tensors'}, expected numbers and names alone; "
            "it is not opened",
            hint="trust no such file; take the safetensors version of the model",
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: damaged: {str(error).splitlines()[0]}", hint="copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds a {type(found).__name__}, expected DeepSpeed's state")
    return found


def _require(found: dict[str, Any], key: str, folder: Path) -> Any:
    if key not in found:
        raise UserError(
            f"{folder}: no {key!r} in its states",
            hint="this DeepSpeed writes them otherwise: 0.14 to 0.19 are known",
        )
    return found[key]


def _truncated(name: str, folder: Path) -> UserError:
    return UserError(f"{folder}: ends before {name}", hint="copy all its files")
