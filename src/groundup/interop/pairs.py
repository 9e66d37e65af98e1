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
from groundup.interop.weights import Source

Change = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Pair:
    """Tensors `ours` and tensors `theirs` that hold the same numbers."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: Change = list
    to_theirs: Change = list


def same(ours: str, theirs: str) -> Pair:
    """Another name, the same numbers."""
    return Pair((ours,), (theirs,))


def renamed(names: Iterable[str], table: Mapping[str, str]) -> Iterator[Pair]:
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
                yield same(
                    name, re.sub(r"\*", lambda _, parts=parts: next(parts), theirs) + name[match.end() :]
                )
                break
        else:
            raise UserError(f"tensor {name} has no place in this family")


def transposed(ours: str, theirs: str) -> Pair:
    """A matrix that the other side keeps as (in, out), as GPT-2's Conv1D does."""
    flip = lambda tensors: [tensors[0].T]  # noqa: E731
    return Pair((ours,), (theirs,), flip, flip)


def joined(ours: Iterable[str], theirs: str, sizes: Iterable[int], *, transpose: bool = False) -> Pair:
    """Several of our matrices (or biases) that the other side keeps as one, below one another."""
    sizes = list(sizes)

    def split(tensors: list[Tensor]) -> list[Tensor]:
        return list((tensors[0].T if transpose else tensors[0]).split(sizes))

    def join(tensors: list[Tensor]) -> list[Tensor]:
        whole = torch.cat(tensors)
        return [whole.T if transpose else whole]

    return Pair(tuple(ours), (theirs,), split, join)


def stacked(ours: str, theirs: Iterable[str]) -> Pair:
    """One of our tensors whose first dimension the other side keeps as separate tensors, such as experts."""
    return Pair(
        (ours,),
        tuple(theirs),
        lambda tensors: [torch.stack(tensors)],
        lambda tensors: list(tensors[0].unbind()),
    )


def expected_shapes(pairs: Iterable[Pair], ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that a foreign file must have, for a model whose tensors have the shapes of `ours`."""
    shapes = {}
    for pair in pairs:
        empty = [torch.empty_like(ours[name], device="meta") for name in pair.ours]
        shapes |= {name: tuple(t.shape) for name, t in zip(pair.theirs, pair.to_theirs(empty), strict=True)}
    return shapes


def check(expected: Mapping[str, tuple[int, ...]], source: Source, ignored: Iterable[str] = ()) -> None:
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


def to_ours(pairs: Iterable[Pair], source: Source) -> Iterator[tuple[str, Tensor]]:
    """Our tensors, read from `source` one pair at a time."""
    for pair in pairs:
        yield from zip(pair.ours, pair.to_ours([source.read(name) for name in pair.theirs]), strict=True)


def to_theirs(pairs: Iterable[Pair], ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Their tensors, made from ours one pair at a time."""
    for pair in pairs:
        tensors = pair.to_theirs([ours[name].detach() for name in pair.ours])
        yield from ((name, tensor.contiguous()) for name, tensor in zip(pair.theirs, tensors, strict=True))


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
