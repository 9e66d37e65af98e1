"""Low-rank updates under the names and in the layout of a Hugging Face family, both ways.

The tensor maps of a family say which of our matrices are in which of its tensors. An update of a foreign matrix becomes updates
of ours, and the other way round: matrices that are concatenated in a family (GPT-2's c_attn) share A, or have blocks of B.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from groundup.artifacts.errors import UserError
from groundup.interop.adapters.lora_layer import EXPERT_MATRICES, LoRAExperts, LoRALinear
from groundup.interop.families import FAMILIES
from groundup.interop.families.family import Family
from groundup.interop.families.select_family import lossy_fields
from groundup.interop.weight_map import TensorMap, map_identical
from groundup.model.frozen_linear import PackedLinear


@dataclass(frozen=True)
class LowRankUpdate:
    """Factors of one matrix: a (r in), b (out r), bias (out) of the output, magnitude (out) of DoRA."""

    a: Tensor
    b: Tensor
    bias: Tensor | None = None
    magnitude: Tensor | None = None


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the model without its adapter, by the names of a plain model; of a packed weight on the meta device."""
    tensors: dict[str, Tensor] = {}
    packed = {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    for name, layer in packed.items():
        weight = torch.empty(layer.out_features, layer.in_features, device="meta")
        tensors[_plain_name(model, f"{name}.weight")] = weight
        if layer.bias is not None:
            tensors[_plain_name(model, f"{name}.bias")] = layer.bias
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        is_update = any(part.startswith("lora_") or part == "magnitude" for part in parts)
        if is_update or ".parametrizations.weight.0." in name or name.rpartition(".")[0] in packed:
            continue
        tensors[_plain_name(model, name)] = tensor
    for name, module in model.named_modules():
        if hasattr(module, "to_experts"):  # a packed layer for each matrix of each expert
            _stack_experts(tensors, name, module)
    return tensors


def _stack_experts(tensors: dict[str, Tensor], name: str, experts: nn.Module) -> None:
    for matrix in EXPERT_MATRICES:
        layers: nn.ModuleList = getattr(experts, matrix)
        for part, stacked in (("weight", matrix), ("bias", matrix.replace("_proj", "_bias"))):
            parts = [tensors.pop(f"{name}.{matrix}.{index}.{part}", None) for index in range(len(layers))]
            if parts[0] is not None:
                tensors[f"{name}.{stacked}"] = torch.empty(len(layers), *parts[0].shape, device="meta")


def _plain_name(model: nn.Module, name: str) -> str:
    name = name.replace(".parametrizations.weight.original", ".weight")
    owner, _, last = name.rpartition(".")
    if owner.endswith(".base") and isinstance(
        model.get_submodule(owner.removesuffix(".base")), LoRALinear | LoRAExperts
    ):
        return f"{owner.removesuffix('.base')}.{last}"
    return name


def candidate_families(config: Any) -> Iterator[Family]:
    """The families that represent the whole of `config`, the simplest first."""
    for family in FAMILIES.values():
        if (
            family.kind == config.architecture
            and family.moe == (config.moe is not None)
            and not lossy_fields(config, family)
        ):
            yield family


class ForeignLayout:
    """The names and layout of a family for one model; `family` None: our own.

    Attributes:
        maps: the tensor map of each foreign tensor.
        shapes: shape of each of our tensors.
    """

    def __init__(self, model: nn.Module, family: Family | None):
        self.family = family
        self.shapes = {name: tuple(tensor.shape) for name, tensor in plain_weights(model).items()}
        names = list(self.shapes)
        maps = [map_identical(name, name) for name in names]
        if family is not None:
            maps = list(family.weight_map(model.config, names))  # type: ignore[arg-type]
        self.maps = {foreign: tensor_map for tensor_map in maps for foreign in tensor_map.foreign}
        self.by_native = {native: tensor_map for tensor_map in maps for native in tensor_map.native}

    def tensor_name(self, name: str) -> str | None:
        """The foreign tensor `name`, also as a class without a head calls it; None: there is none."""
        prefix = "" if self.family is None else self.family.prefix
        return next((each for each in (name, prefix + name, name.removeprefix(prefix)) if each in self.maps), None)

    def foreign_shape(self, tensor_map: TensorMap) -> list[tuple[int, ...]]:
        native = [torch.empty(self.shapes[name], device="meta") for name in tensor_map.native]
        return [tuple(tensor.shape) for tensor in tensor_map.to_foreign(native)]

    def to_native(self, foreign: str, update: LowRankUpdate) -> dict[str, LowRankUpdate]:
        """The updates of our matrices, by tensor name, that one update of the foreign matrix is. Raises UserError."""
        tensor_map = self.maps[foreign]
        shape = self.foreign_shape(tensor_map)[tensor_map.foreign.index(foreign)]
        transposed, columns = self._orientation(tensor_map, shape, foreign)
        rows, width = (shape[1], shape[0]) if transposed else shape
        for name, tensor, expected in (
            ("A", update.a, (update.a.shape[0], width)),
            ("B", update.b, (rows, update.a.shape[0])),
        ):
            if tuple(tensor.shape) != expected:
                raise UserError(
                    f"{foreign.removesuffix('.weight')}: lora_{name} has shape {list(tensor.shape)}, expected {list(expected)}"
                )

        def split(vectors: Tensor) -> list[Tensor]:
            return tensor_map.to_native([vectors.T if transposed else vectors])

        a = update.a if columns is None else update.a[:, columns]
        b = split(update.b)
        bias, magnitude = (
            [None] * len(b) if each is None else [part[:, 0] for part in split(each[:, None])]
            for each in (update.bias, update.magnitude)
        )
        return {
            name: LowRankUpdate(a, *parts)  # type: ignore[arg-type]
            for name, *parts in zip(tensor_map.native, b, bias, magnitude, strict=True)
        }

    def to_foreign(self, updates: Mapping[str, LowRankUpdate]) -> dict[str, LowRankUpdate]:
        """The updates of foreign matrices, by tensor name, from those of our matrices. Raises UserError."""
        done: dict[str, LowRankUpdate] = {}
        for tensor_map in {id(each): each for each in map(self.by_native.__getitem__, updates)}.values():
            if len(tensor_map.foreign) > 1:
                done |= self._separate(tensor_map, updates[tensor_map.native[0]])
                continue
            foreign = next(iter(tensor_map.foreign))
            orientation = self._orientation(tensor_map, self.foreign_shape(tensor_map)[0], foreign)
            parts = [updates.get(name) for name in tensor_map.native]
            done[foreign] = _joined(tensor_map, parts, self.shapes, *orientation)
        return done

    def is_stack(self, tensor_map: TensorMap) -> bool:
        """Whether our tensor is the foreign ones on top of one another, such as experts."""
        parts = [torch.full(shape, float(e)) for e, shape in enumerate(self.foreign_shape(tensor_map))]
        if len({part.shape for part in parts}) > 1:
            return False
        natives, stack = tensor_map.to_native(parts), torch.stack(parts)
        return len(natives) == 1 and natives[0].shape == stack.shape and natives[0].equal(stack)

    def _separate(self, tensor_map: TensorMap, update: LowRankUpdate) -> dict[str, LowRankUpdate]:
        if not self.is_stack(tensor_map) or update.a.ndim != 3:
            raise UserError(f"{tensor_map.native[0]}: parts of several tensors of {self._name}")
        return {name: LowRankUpdate(update.a[e], update.b[e]) for e, name in enumerate(tensor_map.foreign)}

    @property
    def _name(self) -> str:
        return "groundup" if self.family is None else self.family.name

    def _orientation(self, tensor_map: TensorMap, shape: Sequence[int], name: str) -> tuple[bool, Tensor | None]:
        """(whether the foreign matrix is (in out), order of its columns in ours). Raises UserError for other layouts."""
        if tensor_map.to_native is list:
            return False, None
        if len(shape) == 2 and len(tensor_map.foreign) == 1:
            row, column = torch.arange(shape[0]).float(), torch.arange(shape[1]).float()
            by_row = tensor_map.to_native([row[:, None].expand(*shape)])
            by_column = tensor_map.to_native([column.expand(*shape)])
            for transposed, rows, columns in ((False, by_row, by_column), (True, by_column, by_row)):
                order = columns[0][0]
                same_rows = all((part == part[:, :1]).all() for part in rows)
                same_columns = all((part == order).all() for part in columns)
                if same_rows and same_columns and order.sort().values.equal(row if transposed else column):
                    return transposed, None if order.equal(order.sort().values) else order.long()
        raise UserError(f"{name}: a layout of {self._name} in which its update has no low rank")


def _joined(
    tensor_map: TensorMap,
    parts: Sequence[LowRankUpdate | None],
    shapes: Mapping[str, tuple[int, ...]],
    transposed: bool,
    columns: Tensor | None,
) -> LowRankUpdate:
    """One update of the foreign matrix: A of the parts below one another, B in blocks."""
    present = [part for part in parts if part is not None]
    rank = sum(part.a.shape[0] for part in present)
    blocks, begin = [], 0
    for name, part in zip(tensor_map.native, parts, strict=True):
        block = present[0].b.new_zeros(shapes[name][0], rank)
        if part is not None:
            block[:, begin : begin + part.a.shape[0]] = part.b
            begin += part.a.shape[0]
        blocks.append(block)

    def join(vectors: list[Tensor]) -> Tensor:
        (joined,) = tensor_map.to_foreign(vectors)
        return joined.T if transposed else joined

    def join_vectors(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts if part is not None]
        if all(value is None for value in values):
            return None
        if any(value is None for value in values) or len(values) < len(parts):
            raise UserError(f"{tensor_map.foreign[0]}: only a part of it has {name}")
        return join([value[:, None] for value in values])[:, 0]

    a = torch.cat([part.a for part in present])
    if columns is not None:
        a = a[:, columns.argsort()]
    return LowRankUpdate(a, join(blocks), join_vectors("bias"), join_vectors("magnitude"))


def replace_weight(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter or buffer `name` of the model, in the dtype that it has; other holders keep the old one."""
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, LoRALinear):
        module = module.base
    old: Tensor = getattr(module, last)
    new = tensor.to(device=old.device, dtype=old.dtype)
    if isinstance(old, nn.Parameter):
        module.register_parameter(last, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, last, new)
    assert not parametrize.is_parametrized(module, last)
