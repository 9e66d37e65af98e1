"""How one layout of weights becomes another: a list of pairs, each read in both directions.

A pair says which of our tensors hold the same numbers as which of theirs, and how to turn one into the other.
Written once, it loads, it exports, and it tells which shapes a foreign file must have: the export applied to
tensors without memory.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.safetensors_files import TensorSource

TensorFunction = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class TensorMap:
    """Tensors `ours` and tensors `theirs` that hold the same numbers."""

    native: tuple[str, ...]
    foreign: tuple[str, ...]
    to_native: TensorFunction = list
    to_foreign: TensorFunction = list


def map_identical(native: str, foreign: str) -> TensorMap:
    """Another name, the same numbers."""
    return TensorMap((native,), (foreign,))


def map_names(names: Iterable[str], table: Mapping[str, str]) -> Iterator[TensorMap]:
    """One pair for each of our `names`: the first entry of `table` that a name begins with renames it.

    `*` stands for one part of a name, such as a layer's number, and is the same on both sides.
    """
    rules = [
        (re.compile(re.escape(ours).replace(r"\*", r"([^.]+)")), theirs) for ours, theirs in table.items()
    ]
    for name in names:
        for pattern, theirs in rules:
            if match := pattern.match(name):
                parts = iter(match.groups())
                yield map_identical(
                    name, re.sub(r"\*", lambda _, parts=parts: next(parts), theirs) + name[match.end() :]
                )
                break
        else:
            raise UserError(f"tensor {name} has no place in this family")


def map_transposed(native: str, foreign: str) -> TensorMap:
    """A matrix that the other side keeps as (in, out), as GPT-2's Conv1D does."""
    flip = lambda tensors: [tensors[0].T]  # noqa: E731
    return TensorMap((native,), (foreign,), flip, flip)


def map_concatenated(
    native: Iterable[str], foreign: str, sizes: Iterable[int], *, transpose: bool = False
) -> TensorMap:
    """Several of our matrices (or biases) that the other side keeps as one, below one another."""
    sizes = list(sizes)

    def split(tensors: list[Tensor]) -> list[Tensor]:
        return list((tensors[0].T if transpose else tensors[0]).split(sizes))

    def concatenate(tensors: list[Tensor]) -> list[Tensor]:
        whole = torch.cat(tensors)
        return [whole.T if transpose else whole]

    return TensorMap(tuple(native), (foreign,), split, concatenate)


def map_stacked(native: str, foreign: Iterable[str]) -> TensorMap:
    """One of our tensors whose first dimension the other side keeps as separate tensors, such as experts."""
    return TensorMap(
        (native,),
        tuple(foreign),
        lambda tensors: [torch.stack(tensors)],
        lambda tensors: list(tensors[0].unbind()),
    )


def expected_shapes(
    weight_map: Iterable[TensorMap], native: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """The shapes that a foreign file must have, for a model whose tensors have the shapes of `ours`."""
    shapes = {}
    for pair in weight_map:
        empty = [torch.empty_like(native[name], device="meta") for name in pair.native]
        shapes |= {name: tuple(t.shape) for name, t in zip(pair.foreign, pair.to_foreign(empty), strict=True)}
    return shapes


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], source: TensorSource, ignored: Iterable[str] = ()
) -> None:
    """Compare names and shapes before anything is read.

    Raises UserError that names the first missing, unexpected or misshaped tensor, expected and found.
    """
    found = source.shapes
    missing = [name for name in expected if name not in found]
    ignored = tuple(ignored)
    extra = [
        n for n in found if n not in expected and not any(fnmatchcase(n, pattern) for pattern in ignored)
    ]
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
            hint="the weights do not belong to the configuration, or the model has parts that we do not have",
        )


def convert_to_native(weight_map: Iterable[TensorMap], source: TensorSource) -> Iterator[tuple[str, Tensor]]:
    """Our tensors, read from `source` one pair at a time."""
    for pair in weight_map:
        yield from zip(pair.native, pair.to_native([source.read(name) for name in pair.foreign]), strict=True)


def convert_to_foreign(
    weight_map: Iterable[TensorMap], native: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Their tensors, made from ours one pair at a time."""
    for pair in weight_map:
        tensors = pair.to_foreign([native[name].detach() for name in pair.native])
        yield from ((name, tensor.contiguous()) for name, tensor in zip(pair.foreign, tensors, strict=True))


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
