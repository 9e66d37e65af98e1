"""Calibration windows: token sequences of one length, taken from a token shard or from short documents."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError


def evenly_spaced_windows(ids: Sequence[int] | np.ndarray, length: int, tokens: int, seed: int | None = None) -> Tensor:
    """About `tokens` tokens of `ids` in evenly spaced windows of `length`, (N T) int64.

    With a seed, each window begins at a random place of its own part of `ids`. Windows overlap only where `length`
    requires it. Raises UserError when `ids` is shorter than one window.
    """
    if len(ids) < length:
        raise UserError(f"{len(ids)} tokens of calibration text, expected at least {length}", hint="give more text")
    count = max(1, min(tokens, len(ids)) // length)
    begins = [(len(ids) - length) * i // max(1, count - 1) for i in range(count)]
    if seed is not None:
        space = len(ids) // count
        draw = np.random.default_rng(seed).integers(0, space - length + 1, count)
        begins = [space * i + int(offset) for i, offset in enumerate(draw)]
    return torch.stack([torch.from_numpy(np.array(ids[begin : begin + length], dtype=np.int64)) for begin in begins])


def calibration_length(model: nn.Module, available: int) -> int:
    """Length of calibration windows: the model's context, at most 2,048 tokens and the `available` ones."""
    return min(model.config.context_length, 2_048, max(1, available))  # type: ignore[union-attr,type-var]


def concatenated_windows(rows: Iterable[Sequence[int]], length: int, tokens: int) -> Tensor:
    """Windows of `length` from the concatenation of `rows`, at most `tokens` tokens, (N T); N may be 0."""
    ids: list[int] = []
    for row in rows:
        ids += row
        if len(ids) >= tokens:
            break
    count = min(len(ids), tokens) // length
    return torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)
