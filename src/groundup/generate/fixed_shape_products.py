"""Matrix products in which a row of the result depends on its row of the input alone, bit for bit.

A library chooses the order of its sums by the shapes of a product: 3 rows and 4 rows may be computed in different ways (He and
Thinking Machines Lab 2025, "Defeating Nondeterminism in LLM Inference"). Of one shape it always chooses the same, so rows are
multiplied in tiles of `TILE_ROWS`, the last one filled up with zeros. What remains to be shown is that all places of a tile are
alike, and that is tried with random numbers when a shape is first met, on this machine and with this number of threads: sums
in another order differ in every second number. Tiles of `WIDE_ROWS` are faster for prompts, and used where the same trial finds
that they give the same bits.

Compiled code (native/) needs no tiles: it computes each row by the same operations.
"""

from collections.abc import Callable, Hashable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.generate.native.native_matrix import float_matrix, multiply, native_library

TILE_ROWS, WIDE_ROWS = 16, 256
ALIGNMENT = 64
"""Bytes: libraries treat numbers before the first multiple in another way."""
NATIVE_ROWS = 512
"""Rows that compiled code multiplies at once: its operands then stay in the cache."""

RowProduct = Callable[[Tensor], Tensor]
"""(M I) -> (M O), row by row."""

_trials: dict[Hashable, bool] = {}


def row_linear(
    x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "... O"]:
    """x W^T + b. Raises UserError where the library of this machine treats the rows of a tile differently."""
    if not x.numel():
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if weight.dtype == torch.bfloat16 == x.dtype and native_library() and (matrix := float_matrix(weight, bias)):
        parts = [multiply(part, matrix) for part in rows.split(NATIVE_ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*x.shape[:-1], -1)
    kind = ("linear", weight.dtype, tuple(weight.shape), bias is None, weight.data_ptr() % ALIGNMENT)
    product = in_tiles(rows, lambda tile: F.linear(tile, weight, bias), kind)
    return product.view(*x.shape[:-1], len(weight))


def in_tiles(x: Float[Tensor, "M I"], product: RowProduct, kind: Hashable) -> Float[Tensor, "M O"]:
    """`product` of all rows in tiles; `kind`: what distinguishes it from others, for the trials."""
    size = tile_size(len(x), product, x, kind)
    aligned = len(x) == TILE_ROWS and x.is_contiguous() and not x.data_ptr() % ALIGNMENT
    outputs = [product(tile) for tile in ([x] if aligned else cut_tiles(x, size))]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[: len(x)]


def cut_tiles(x: Float[Tensor, "M I"], size: int) -> list[Float[Tensor, "tile I"]]:
    """Tiles of `size` rows in aligned memory, zeros after the last row; smaller tiles for a rest of few rows."""
    rest = len(x) % size
    whole = len(x) - rest + (size if rest > size // 4 else 0)  # a wide tile takes the time of some small ones
    padded = x.new_zeros(max(whole, -(-len(x) // TILE_ROWS) * TILE_ROWS), x.shape[1])
    padded[: len(x)] = x
    parts = [*padded[:whole].split(size), *padded[whole:].split(TILE_ROWS)]
    return [part.clone() if part.data_ptr() % ALIGNMENT else part for part in parts if len(part)]


def tile_size(rows: int, product: RowProduct, like: Float[Tensor, "... I"], kind: Hashable) -> int:
    """Rows of the tiles in which to multiply `rows` rows like the last dimension of `like`.

    Raises UserError where the places of a tile are not alike.
    """
    if not _try_once(("places", kind), _places_are_alike, product, like):
        raise UserError(
            f"deterministic: on this machine the product {kind} depends on the place of a row", hint="run without it"
        )
    wide = rows > 2 * TILE_ROWS and _try_once(("wide", kind), _wide_tiles_agree, product, like)
    return WIDE_ROWS if wide else TILE_ROWS


def _try_once(kind: Hashable, trial: Callable[[RowProduct, Tensor], bool], product: RowProduct, like: Tensor) -> bool:
    key = (kind, torch.get_num_threads())
    if key not in _trials:
        _trials[key] = trial(product, like)
    return _trials[key]


def _places_are_alike(product: RowProduct, like: Float[Tensor, "... I"]) -> bool:
    x = _random_rows(TILE_ROWS, like)
    shifted = (product(x.roll(shift, 0)).roll(-shift, 0) for shift in range(1, TILE_ROWS, 2))
    expected = product(x)
    return all(torch.equal(each, expected) for each in shifted)


def _wide_tiles_agree(product: RowProduct, like: Float[Tensor, "... I"]) -> bool:
    x = _random_rows(WIDE_ROWS, like)
    return torch.equal(product(x), torch.cat([product(tile.clone()) for tile in x.split(TILE_ROWS)]))


def _random_rows(rows: int, like: Float[Tensor, "... I"]) -> Float[Tensor, "rows I"]:
    return torch.randn(rows, like.shape[-1], generator=torch.Generator().manual_seed(0)).to(like.dtype)
