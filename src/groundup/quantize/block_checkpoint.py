"""Finished blocks of a quantization on disk: a killed one goes on with the next block, and ends with equal bits.

A block's file has its tensors, the schemes of its quantized layers and their errors, and a digest of the float block, the
settings and the calibration text. A file with another digest is left aside.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from groundup.model.serialization import save_tensors
from groundup.quantize.layers.packed_layers import empty_layer, packed_layers
from groundup.quantize.quantization_grid import QuantizationScheme

BLOCKS_FOLDER = "blocks"
"""Name of the folder, beside the files of the model that is written, until it is complete."""


class BlockCheckpoint:
    """The finished blocks in a folder, or nowhere: nothing is then saved or found.

    Args:
        identity: what else the blocks depend on: settings and calibration text.
    """

    def __init__(self, folder: Path | None, *identity: object):
        self.folder = folder
        self._identity = "" if folder is None else "".join(map(_digest, identity))
        self._digests: dict[str, str] = {}

    def restore(self, name: str, block: nn.Module) -> list[dict[str, Any]] | None:
        """Make the float `block` the finished one, if it was saved. Returns the fields of its layers' errors, or None."""
        if self.folder is None:
            return None
        # before it is changed
        self._digests[name] = _digest(self._identity, *(tensor for tensor in block.state_dict().values()))
        if not (path := self._path(name)).is_file():
            return None
        with safe_open(path, framework="pt") as file:
            description = json.loads(file.metadata()["description"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if description["digest"] != self._digests[name]:
            return None
        for layer, scheme in description["schemes"].items():
            linear = block.get_submodule(layer)
            assert isinstance(linear, nn.Linear)
            empty = empty_layer(linear, QuantizationScheme(**scheme), permuted=f"{layer}.g_idx" in tensors)
            block.set_submodule(layer, empty)
        device = next(tensor.device for tensor in block.state_dict().values() if not tensor.is_meta)
        block.load_state_dict({key: tensor.to(device) for key, tensor in tensors.items()}, assign=True)
        block.requires_grad_(False)
        return description["errors"]

    def save(self, name: str, block: nn.Module, errors: list[dict[str, Any]]) -> None:
        """Write a finished block, whole or not at all."""
        if self.folder is None:
            return
        self.folder.mkdir(exist_ok=True)
        schemes = {layer: asdict(module.scheme) for layer, module in packed_layers(block).items()}
        description = {"digest": self._digests[name], "schemes": schemes, "errors": errors}
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in block.state_dict().items()}
        partial = self._path(name).with_suffix(".partial")
        save_tensors(tensors, partial, {"description": json.dumps(description)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._path(name))

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
