"""Which text is looked at: windows of equal length, spread evenly over what there is."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError


def evenly_spaced_windows(ids: Sequence[int] | np.ndarray, length: int, tokens: int) -> Tensor:
    """About `tokens` of the row `ids` in windows of `length`, from its beginning to its end, (N T) int64.

    Fewer where the row is shorter: windows overlap no more than they must. Raises UserError where there is
    not one.
    """
    if len(ids) < length:
        raise UserError(
            f"{len(ids)} tokens of text, expected at least one window of {length}", hint="give more text"
        )
    count = max(1, min(tokens, len(ids)) // length)
    begins = [(len(ids) - length) * i // max(1, count - 1) for i in range(count)]
    return torch.stack(
        [torch.from_numpy(np.array(ids[begin : begin + length], dtype=np.int64)) for begin in begins]
    )


def concatenated_windows(rows: Iterable[Sequence[int]], length: int, tokens: int) -> Tensor:
    """At most `tokens` of short rows, one after the other, cut into windows of `length`, (N T); N may be
    0.
    """
    whole: list[int] = []
    for row in rows:
        whole += row
        if len(whole) >= tokens:
            break
    count = min(len(whole), tokens) // length
    return torch.tensor(whole[: count * length], dtype=torch.int64).view(count, length)
