"""GPTQ (Frantar et al. 2022, "Accurate Post-Training Quantization for Generative Pre-trained Transformers").

Rounding a column changes the layer's output. The columns not yet rounded can compensate part of the error: the best
correction under squared output error follows from the inverse Hessian H = X X^T of the layer's inputs (OBQ, Frantar
and Alistarh 2022). GPTQ rounds the columns in one order for all rows, so that one Cholesky factor serves every row and
every step (its section 3, "step 3"), and applies the corrections of distant columns in batches (its "step 2").

Rows are independent: matrices with the same inputs (q, k and v) are rounded as one.
"""

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, find_params

LAZY_UPDATE_COLUMNS = 128
"""Columns whose corrections of the rest are applied in one product; affects speed only."""


def gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: QuantizationScheme,
    *,
    damp_percent: float = 0.05,
    act_order: bool = True,
    unrounded: Tensor | None = None,
) -> QuantizedWeight:
    """Round `weight` column by column, correcting the remaining columns after each.

    Args:
        weight: (out in).
        hessian: (in in), the second moment of the layer's inputs, at any scale; its dtype is the compute dtype.
        damp_percent: added to the diagonal, as a fraction of its mean (section 3, "step 3").
        act_order: round the columns with the largest inputs first. Scales then come from the original weights, so
            that groups stay contiguous in memory; otherwise from the corrected weights when a group is reached.
        unrounded: (out in), is filled with the corrected weights: what was rounded to the codes.

    Raises UserError for weights that are not finite.
    """
    width, group_width = weight.shape[1], scheme.group_width(weight.shape[1])
    importance = hessian.diagonal()
    order = torch.argsort(importance, descending=True, stable=True) if act_order else torch.arange(width)
    factor = inverse_cholesky(hessian[order][:, order], damp_percent)
    # transposed: what belongs to a column is contiguous
    work = weight.T[order].to(hessian.dtype).contiguous()
    codes = torch.empty(work.shape, dtype=torch.uint8, device=work.device)
    scale, zero = (grid.to(hessian.dtype).T.contiguous() for grid in find_params(weight, scheme, importance))
    columns, groups = order.tolist(), (order // group_width).tolist()

    for begin in range(0, width, LAZY_UPDATE_COLUMNS):
        end = min(begin + LAZY_UPDATE_COLUMNS, width)
        block, errors = work[begin:end], torch.empty_like(work[begin:end])
        block_factor = factor[begin:end, begin:end]
        for index, column in enumerate(range(begin, end)):
            group = groups[column]
            if not act_order and column % group_width == 0:
                last = min(column + group_width, width)
                group_weight = work[column:last]
                if last > end:  # with the corrections that are applied after the block
                    later = work[end:last] - factor[begin:column, end:last].T @ errors[:index]
                    group_weight = torch.cat([work[column:end], later])
                found = find_params(group_weight.T, scheme, importance[column:last])
                scale[group], zero[group] = (grid[:, 0] for grid in found)
            s, z = scale[group], zero[group]
            if unrounded is not None:
                unrounded[:, columns[column]] = block[index]
            code = (block[index] / s).round_().add_(z).clamp_(0, scheme.max_code)
            codes[column] = code
            error = (block[index] - code.sub_(z).mul_(s)) / block_factor[index, index]
            block[index:].addr_(block_factor[index, index:], error, alpha=-1)
            errors[index] = error
        work[end:] -= factor[begin:end, end:].T @ errors

    return QuantizedWeight(codes[torch.argsort(order)].T.contiguous(), scale.T.half(), zero.T.byte(), scheme)


def inverse_cholesky(hessian: Tensor, damp_percent: float) -> Tensor:
    """The upper triangular U with U^T U = (H + damp_percent * mean(diag H) * I)^-1, (in in).

    Row i of U, divided by its diagonal, is the correction of the later columns for an error in column i. Inputs that
    were never active get a unit diagonal and no correction. Factored in float64; the damping is raised up to four
    times while the matrix is not positive definite.
    """
    damped = hessian.double() if hessian.dtype != torch.float64 else hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1
    mean, added = diagonal.mean(), 0.0
    for _ in range(5):
        diagonal.add_((damp_percent - added) * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).to(hessian.dtype)
        added, damp_percent = damp_percent, max(10 * damp_percent, 1e-4)
    raise UserError(
        "the second moment of a layer's calibration inputs is not positive definite (inputs not finite?)",
        hint="more or other calibration text, or quantize.method = rtn",
    )
