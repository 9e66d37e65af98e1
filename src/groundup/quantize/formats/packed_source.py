"""Reader of a folder with quantized layers: their weights by the names and shapes that float weights would have."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource
from groundup.quantize.formats.quantized_format import Json, PackedWeight, QuantizedFormat
from groundup.quantize.layers.nf4 import NF4Weight, dequantize_nf4
from groundup.quantize.quantization_grid import QuantizedWeight

WEIGHT_SUFFIX = ".weight"
MATRICES = ("qweight", "qzeros", "scales", "weight_packed")
"""Tensors of a layer with two dimensions."""


class PackedSource:
    """Tensors of a folder, those of its quantized layers as one weight each.

    Attributes:
        shapes: shape by tensor name; (out, in) for a quantized weight.
        quantized: layer by the name of its weight.

    Raises UserError for an unsupported variant of the format.
    """

    def __init__(self, source: TensorSource, format: QuantizedFormat, config: Json):
        self.path, self._source, self._format, self._config = source.path, source, format, config
        self._checked(lambda: format.check_config(config), "quantization_config")
        layers = {
            name.removesuffix(f".{key}") for key in format.keys for name in source.shapes if name.endswith(f".{key}")
        }
        parts: dict[str, dict[str, str]] = {layer: {} for layer in layers}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in source.shapes.items():
            layer = _layer_of(name, layers)
            if layer is None or name == f"{layer}.bias":
                self.shapes[name] = shape
            else:
                parts[layer][name.removeprefix(f"{layer}.")] = name
        self.quantized = {layer + WEIGHT_SUFFIX: layer for layer in sorted(layers)}
        self._tensors = {layer: _LazyTensors(source, names) for layer, names in parts.items()}
        for name, layer in self.quantized.items():
            for part in MATRICES:
                if part in parts[layer] and len(shape := source.shapes[parts[layer][part]]) != 2:
                    raise UserError(f"{self.path}: {layer}.{part} has shape {shape}, expected two dimensions")
            tensors = self._tensors[layer]
            self.shapes[name] = self._checked(lambda tensors=tensors: format.weight_shape(tensors, config), layer)

    def weight(self, name: str) -> PackedWeight:
        """The weight `name` of a quantized layer."""
        layer = self.quantized[name]
        return self._checked(lambda: self._format.from_tensors(self._tensors[layer], self._config, layer), layer)

    def read(self, name: str) -> Tensor:
        """A float tensor, or a quantized weight multiplied out in float32."""
        return multiply_out(self.weight(name)) if name in self.quantized else self._source.read(name)

    def _checked(self, read: Any, layer: str) -> Any:
        try:
            return read()
        except KeyError as error:
            raise UserError(
                f"{self.path}: {layer} has no tensor {error}, expected in {self._format.name} weights"
            ) from None
        except UserError as error:
            raise UserError(f"{self.path}: {error.message}", hint=error.hint) from None


def multiply_out(weight: PackedWeight) -> Tensor:
    """The represented matrix in float32."""
    if isinstance(weight, QuantizedWeight):
        return weight.dequantize()
    return dequantize_nf4(weight) if isinstance(weight, NF4Weight) else weight


def _layer_of(name: str, layers: set[str]) -> str | None:
    """The quantized layer that a tensor belongs to: a prefix of its name."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in layers:
            return name
    return None


class _LazyTensors(Mapping[str, Tensor]):
    """Tensors of a layer by last name, read when asked for."""

    def __init__(self, source: TensorSource, names: dict[str, str]):
        self._source, self._names = source, names

    def __getitem__(self, part: str) -> Tensor:
        return self._source.read(self._names[part])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
