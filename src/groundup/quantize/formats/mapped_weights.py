"""Maps of float weights applied to quantized ones: to codes, scales, zeros and groups alike."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from groundup.quantize.quantization_grid import QuantizedWeight


def map_packed(
    mapping: Callable[[list[Tensor]], list[Tensor]], weights: list[QuantizedWeight]
) -> list[QuantizedWeight] | None:
    """The weights that `mapping` makes of `weights`, if it only moves rows: stacks, splits, joins or reorders them.

    A stack has a dimension more, in `g_idx` too. None: the map does something else, or the weights differ in bits or groups.
    """
    scheme = weights[0].scheme
    if len({(weight.scheme.bits, weight.scheme.group_size) for weight in weights}) > 1:
        return None
    scheme = replace(scheme, symmetric=all(weight.scheme.symmetric for weight in weights))
    try:
        codes, scales, zeros = (mapping([getattr(w, part) for w in weights]) for part in ("codes", "scale", "zero"))
        groups = _map_groups(mapping, weights)
    except RuntimeError:  # shapes that do not fit together
        return None
    mapped = []
    for code, scale, zero, rows in zip(codes, scales, zeros, groups, strict=True):
        if scale.shape != (*code.shape[:-1], scheme.num_groups(code.shape[-1])):
            return None
        g_idx = None
        if rows is not None:
            g_idx = rows[..., 0, :]
            if not torch.equal(rows, g_idx[..., None, :].expand_as(rows)):
                return None  # rows of layers with different groups in one matrix
        mapped.append(QuantizedWeight(code, scale, zero, scheme, None if g_idx is None else g_idx.contiguous()))
    return mapped


def _map_groups(
    mapping: Callable[[list[Tensor]], list[Tensor]], weights: list[QuantizedWeight]
) -> list[Tensor] | list[None]:
    """The group of each weight of the mapped matrices, where one of `weights` has groups by `g_idx`."""
    if all(weight.g_idx is None for weight in weights):
        return [None] * len(mapping([weight.scale for weight in weights]))
    rows = []
    for weight in weights:
        width = weight.codes.shape[-1]
        index = weight.scheme.group_index(width).int() if weight.g_idx is None else weight.g_idx
        index = index if index.ndim == weight.codes.ndim - 1 else index.expand(*weight.codes.shape[:-2], width)
        rows.append(index[..., None, :].expand_as(weight.codes))
    return mapping(rows)
