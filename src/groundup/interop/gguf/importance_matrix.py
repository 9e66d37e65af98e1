"""Importance matrices: the mean square of each input of a layer, by which rounding weights the columns of its matrix.

Files of llama.cpp's imatrix tool hold the same numbers, by GGUF names, and are read and written.

Source: llama.cpp, tools/imatrix (`in_sum2`, `counts`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.gguf_file import GGUFFile
from groundup.interop.weight_map import TensorMap
from groundup.model.moe import Experts, grouped_linear

Importance = Mapping[str, Float[Tensor, "experts inputs"]]
"""By native tensor name; a linear layer has one row, a stack of experts one each."""

BATCH_TOKENS = 2_048
SUM, COUNT = ".in_sum2", ".counts"


class _SquaredInputs:
    """Sums of squared inputs by tensor name, and how many inputs there were, by expert."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, x: Tensor, ends: Tensor | None = None) -> None:
        squares = x.detach().reshape(-1, x.shape[-1]).float().square()
        bounds = [0, len(squares)] if ends is None else [0, *ends.tolist()]
        sums = torch.stack([squares[begin:end].sum(0) for begin, end in pairwise(bounds)])
        counts = torch.tensor(bounds, dtype=torch.float32).diff()
        self.sums[name] = self.sums[name] + sums if name in self.sums else sums
        self.counts[name] = self.counts[name] + counts if name in self.counts else counts


@torch.no_grad()
def measure_importance(model: nn.Module, windows: Int[Tensor, "N T"]) -> Importance:
    """The mean squared inputs of the linear layers and experts of `model` on windows of tokens.

    An expert that no token reached has the mean of the others.
    """
    inputs = _SquaredInputs()
    device = next(model.parameters()).device
    with _recorded(model, inputs):
        for batch in windows.to(device).split(max(1, BATCH_TOKENS // windows.shape[1])):
            named = {"decoder_tokens": batch} if model.config.architecture == "encoder_decoder" else {}  # type: ignore[union-attr]
            model(batch, **named)
    return {name: _means(sums.cpu(), inputs.counts[name]) for name, sums in inputs.sums.items()}


def _means(sums: Tensor, counts: Tensor) -> Tensor:
    means = sums / counts.clamp(min=1)[:, None]
    return torch.where(counts[:, None] > 0, means, sums.sum(0) / counts.sum().clamp(min=1))


@contextmanager
def _recorded(model: nn.Module, inputs: _SquaredInputs) -> Iterator[None]:
    def record(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not isinstance(module, Experts):
            inputs.add(f"{name}.weight", args[0])
            return
        x, ends = args
        for part in ("gate_proj", "up_proj"):
            inputs.add(f"{name}.{part}", x, ends)
        gate = grouped_linear(x, module.gate_proj, ends, module.gate_bias)
        inputs.add(
            f"{name}.down_proj", module.gating(gate, grouped_linear(x, module.up_proj, ends, module.up_bias)), ends
        )

    handles = [
        module.register_forward_pre_hook(partial(record, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Experts)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def write_importance_matrix(
    path: Path, importance: Importance, weight_map: Iterable[TensorMap], num_tokens: int
) -> None:
    """A file of llama.cpp's imatrix tool; `weight_map`: of the model's GGUF file; `num_tokens`: of the text."""
    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", num_tokens)
    for tensor_map in weight_map:
        (first, *_), foreign = tensor_map.native, tensor_map.foreign
        if (means := importance.get(first)) is None or foreign[1:]:
            continue
        writer.add_tensor(foreign[0] + SUM, (means * num_tokens).numpy())
        writer.add_tensor(foreign[0] + COUNT, torch.full((len(means), 1), float(num_tokens)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_importance_matrix(path: Path, weight_map: Iterable[TensorMap]) -> Importance:
    """The importance in a file of llama.cpp's imatrix tool. Raises UserError for another file, and for another model's."""
    file = GGUFFile(path)
    if file.metadata.get("general.type") != "imatrix":
        raise UserError(
            f"{path}: general.type = {file.metadata.get('general.type')!r}, expected 'imatrix'",
            hint="llama.cpp's imatrix tool writes such files, as GGUF since August 2025",
        )
    found = {}
    for tensor_map in weight_map:
        name = tensor_map.foreign[0]
        if name + SUM in file.shapes:
            counts = file.read(name + COUNT).flatten()
            found |= dict.fromkeys(tensor_map.native, _means(file.read(name + SUM).view(len(counts), -1), counts))
    if not found:
        raise UserError(f"{path}: no entry for a tensor of this model", hint="it was measured on another model")
    return found
