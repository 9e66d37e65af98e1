"""Weight maps: the conversion between our tensors and a foreign layout, as a list of tensor maps read in both directions.

A tensor map names our tensors and the foreign tensors with the same content, and the functions that convert them. It serves
import, export and the shapes expected of a foreign file (the export of tensors on the meta device).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource, cast_floating
from groundup.model import assign_weights, build_meta_model
from groundup.model.serialization import resolve_dtype
from groundup.recipe import ModelConfig

TensorFunction = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class TensorMap:
    """Tensors `native` (ours) and `foreign` with the same content, and the conversions between them."""

    native: tuple[str, ...]
    foreign: tuple[str, ...]
    to_native: TensorFunction = list
    to_foreign: TensorFunction = list


def map_identical(native: str, foreign: str) -> TensorMap:
    """The same tensor under another name."""
    return TensorMap((native,), (foreign,))


def map_names(names: Iterable[str], table: Mapping[str, str]) -> Iterator[TensorMap]:
    """Maps of `names` by prefix: the first prefix in `table` (native -> foreign) that matches a name.

    `*` matches one component of a name, such as a layer's index, and is the same on both sides.
    """
    rules = [(re.compile(re.escape(native).replace(r"\*", r"([^.]+)")), foreign) for native, foreign in table.items()]
    for name in names:
        for pattern, foreign in rules:
            if match := pattern.match(name):
                groups = iter(match.groups())
                yield map_identical(
                    name, re.sub(r"\*", lambda _, groups=groups: next(groups), foreign) + name[match.end() :]
                )
                break
        else:
            raise UserError(f"tensor {name} has no counterpart in this family")


def prefix_map(table: Mapping[str, str]) -> Callable[[Any, Iterable[str]], Iterator[TensorMap]]:
    """`map_names` with `table`, as `Family.weight_map`."""
    return lambda config, names: map_names(names, table)


def map_transposed(native: str, foreign: str) -> TensorMap:
    """A matrix stored as (in, out) in the foreign layout, such as GPT-2's Conv1D."""
    flip = lambda tensors: [tensors[0].T]  # noqa: E731
    return TensorMap((native,), (foreign,), flip, flip)


def map_concatenated(
    native: Iterable[str], foreign: str, sizes: Iterable[int], *, transpose: bool = False, order: Tensor | None = None
) -> TensorMap:
    """Several native matrices (or biases) that are one foreign matrix, concatenated along the rows.

    order: index of each foreign row in the concatenation (see row_order.py); None: the same order.
    """
    sizes = list(sizes)

    def split(tensors: list[Tensor]) -> list[Tensor]:
        matrix = tensors[0].T if transpose else tensors[0]
        return list((matrix if order is None else matrix[order.argsort()]).split(sizes))

    def concatenate(tensors: list[Tensor]) -> list[Tensor]:
        concatenated = torch.cat(tensors)
        if order is not None:
            concatenated = concatenated[order]
        return [concatenated.T if transpose else concatenated]

    return TensorMap(tuple(native), (foreign,), split, concatenate)


def map_offset_positions(native: str, foreign: str, offset: int) -> TensorMap:
    """A table of positions whose foreign form has `offset` unused rows before position 0 (fairseq's padding)."""

    def pad(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat((torch.zeros_like(tensors[0][:1]).repeat(offset, 1), tensors[0]))]

    return TensorMap((native,), (foreign,), lambda tensors: [tensors[0][offset:]], pad)


def map_stacked(native: str, foreign: Iterable[str]) -> TensorMap:
    """A native tensor whose first dimension is separate foreign tensors, such as experts."""
    return TensorMap(
        (native,), tuple(foreign), lambda tensors: [torch.stack(tensors)], lambda tensors: list(tensors[0].unbind())
    )


def map_joined(native: str, foreign: Sequence[str]) -> TensorMap:
    """A native tensor whose equal parts are separate foreign tensors, such as the norms of heads."""
    return TensorMap(
        (native,),
        tuple(foreign),
        lambda tensors: [torch.cat(tensors)],
        lambda tensors: list(tensors[0].chunk(len(foreign))),
    )


class _ShapesAlone(TorchFunctionMode):
    """Joins, row orders and sums on the meta device, whose own first call imports PyTorch's compiler, for seconds."""

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0][0] if function in (torch.cat, torch.stack) else args[0] if args else None
        if not isinstance(first, Tensor) or not first.is_meta:
            return function(*args, **kwargs)
        shape, dim = list(first.shape), kwargs.get("dim", args[1] if len(args) > 1 else 0)
        if function is torch.cat:
            shape[dim] = sum(tensor.shape[dim] for tensor in args[0])
        elif function is torch.stack:
            shape.insert(dim % (len(shape) + 1), len(args[0]))
        elif function is Tensor.__getitem__ and isinstance(dim, Tensor):  # an order of rows
            shape[:1] = dim.shape
        elif function not in (Tensor.add, Tensor.sub, Tensor.mul):
            return function(*args, **kwargs)
        return first.new_empty(shape)


def expected_shapes(weight_map: Iterable[TensorMap], native: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of a foreign file, for a model with tensors of the shapes of `native`."""
    shapes = {}
    with _ShapesAlone():
        for tensor_map in weight_map:
            empty = [native[name].new_empty(native[name].shape, device="meta") for name in tensor_map.native]
            foreign = zip(tensor_map.foreign, tensor_map.to_foreign(empty), strict=True)
            shapes |= {name: tuple(tensor.shape) for name, tensor in foreign}
    return shapes


def check_tensors(expected: Mapping[str, tuple[int, ...]], source: TensorSource, ignored: Iterable[str] = ()) -> None:
    """Raises UserError for the first missing, unexpected or misshaped tensor, before any is read."""
    found = source.shapes
    missing = [name for name in expected if name not in found]
    ignored = tuple(ignored)
    extra = [n for n in found if n not in expected and not any(fnmatchcase(n, pattern) for pattern in ignored)]
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    if missing:
        raise UserError(
            f"{source.path}: tensor {missing[0]} is missing, expected shape {list(expected[missing[0]])}"
            f"{_more(missing)}{f'; the file has {extra[0]} instead' if extra else ''}"
        )
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{source.path}: tensor {name} has shape {list(found[name])}, expected {list(expected[name])}"
            f"{_more(wrong)}",
            hint="the weights do not belong to the configuration beside them",
        )
    if extra:
        raise UserError(
            f"{source.path}: tensor {extra[0]} of shape {list(found[extra[0]])} is not part of this model"
            f"{_more(extra)}",
            hint="the weights do not belong to the configuration, or the model has unsupported modules",
        )


def convert_to_native(weight_map: Iterable[TensorMap], source: TensorSource) -> Iterator[tuple[str, Tensor]]:
    """Native tensors, read from `source` one map at a time."""
    for tensor_map in weight_map:
        tensors = [_read_floating(source, name) for name in tensor_map.foreign]
        yield from zip(tensor_map.native, tensor_map.to_native(tensors), strict=True)


def _read_floating(source: TensorSource, name: str) -> Tensor:
    tensor = source.read(name)
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        raise UserError(
            f"{source.path}: tensor {name} is {str(tensor.dtype).removeprefix('torch.')}, expected floating point: quantized "
            "weights, but no quantization_config says how",
            hint="take config.json with its quantization_config from the original model, or the model that is not quantized",
        )
    return tensor


def convert_to_foreign(weight_map: Iterable[TensorMap], native: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Foreign tensors, converted one map at a time."""
    for tensor_map in weight_map:
        tensors = tensor_map.to_foreign([native[name].detach() for name in tensor_map.native])
        yield from ((name, tensor.contiguous()) for name, tensor in zip(tensor_map.foreign, tensors, strict=True))


def build_from_tensors(
    config: ModelConfig,
    build_weight_map: Callable[[ModelConfig, Sequence[str]], Iterable[TensorMap]],
    source: TensorSource,
    *,
    ignored: Iterable[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> nn.Module:
    """The model of `config` with the weights of `source`, in evaluation mode; `dtype` None keeps the source's dtype.

    Raises UserError for a missing, unexpected or misshaped tensor, before any is read; then they are converted one at a time.
    """
    if config.num_layers > len(source.shapes):  # a damaged number would build modules for hours
        raise UserError(
            f"{source.path}: {len(source.shapes)} tensors for num_layers = {config.num_layers:,}, "
            "expected several per layer"
        )
    dtype = resolve_dtype(dtype)
    model = build_meta_model(config)
    empty, float32 = model.state_dict(), dict(model.named_buffers())
    weight_map = list(build_weight_map(config, list(empty)))
    check_tensors(expected_shapes(weight_map, empty), source, ignored)
    foreign = {name: tensor_map.foreign for tensor_map in weight_map for name in tensor_map.native}
    weights: dict[str, Tensor] = {}
    for name, stored in convert_to_native(weight_map, source):
        wide = name in float32 or (dtype is None and stored.dtype == torch.float64)
        tensor = cast_floating(stored, torch.float32 if wide else dtype)
        _check_finite(tensor, stored, f"{source.path}: tensor {foreign[name][0]}{_more(foreign[name])}")
        weights[name] = tensor.to(device).contiguous()
        del stored, tensor  # the next one needs their memory
    assign_weights(model, weights, source=str(source.path))
    return model.requires_grad_().eval()


def _check_finite(tensor: Tensor, stored: Tensor, name: str) -> None:
    """Raises UserError for NaN and infinite weights; a sum shows them in one pass, over the smaller of the two."""
    smaller = stored if stored.element_size() < tensor.element_size() else tensor
    if smaller.sum().isfinite() or not (count := int((~tensor.isfinite()).sum())):
        return
    if stored.isfinite().all():
        raise UserError(
            f"{name}: {count:,} of {tensor.numel():,} values do not fit into {tensor.dtype}", hint="use bfloat16"
        )
    raise UserError(
        f"{name} has {count:,} of {tensor.numel():,} values that are NaN or infinite, expected numbers",
        hint="the training diverged, or the file is damaged: take an earlier checkpoint, or download it again",
    )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
