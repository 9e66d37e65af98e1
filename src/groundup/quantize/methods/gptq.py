"""GPTQ (Frantar et al. 2022, "Accurate Post-Training Quantization for Generative Pre-trained Transformers").

Rounding a column changes the layer's output. The columns not yet rounded can compensate part of the error: the best
correction under squared output error follows from the inverse Hessian H = X X^T of the layer's inputs (OBQ, Frantar
and Alistarh 2022). GPTQ rounds the columns in one order for all rows, so that one Cholesky factor serves every row and
every step (its section 3, "step 3"), and applies the corrections of distant columns in batches (its "step 2").
"""

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, find_params

LAZY_UPDATE_COLUMNS = 128
"""Approximate number of columns whose corrections of the rest are applied in one product; affects speed only."""


def gptq(
    weight: Tensor, hessian: Tensor, scheme: QuantizationScheme, *, damp_percent: float = 0.01, act_order: bool = False
) -> QuantizedWeight:
    """Round `weight` column by column, correcting the remaining columns after each.

    Args:
        weight: (out in).
        hessian: (in in), the second moment of the layer's inputs, at any scale; its dtype is the compute dtype.
        damp_percent: added to the diagonal, as a fraction of its mean (section 3, "step 3").
        act_order: round the columns with the largest inputs first. Scales then come from the original weights, so
            that groups stay contiguous in memory; otherwise from the corrected weights when a group is reached.

    Raises UserError for weights that are not finite.
    """
    width = weight.shape[1]
    scale, zero = find_params(weight, scheme)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if act_order else torch.arange(width)
    positions = order.tolist()
    work = weight[:, order].to(hessian.dtype, copy=True)
    factor = inverse_cholesky(hessian[order][:, order], damp_percent)
    codes = torch.empty_like(work, dtype=torch.uint8)
    # whole groups, so that a group's scale is computed after all corrections
    group_width = scheme.group_width(width)
    batch = group_width * max(1, LAZY_UPDATE_COLUMNS // group_width)

    for begin in range(0, width, batch):
        end = min(begin + batch, width)
        errors = torch.empty_like(work[:, begin:end])
        for column in range(begin, end):
            group = positions[column] // group_width
            if not act_order and column % group_width == 0:
                group_scale, group_zero = find_params(work[:, column : column + group_width], scheme)
                scale[:, group], zero[:, group] = group_scale[:, 0], group_zero[:, 0]
            s, z = scale[:, group], zero[:, group]
            code = ((work[:, column] / s).round() + z).clamp(0, scheme.max_code)
            codes[:, column] = code.to(torch.uint8)
            error = (work[:, column] - (code - z) * s) / factor[column, column]
            work[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - begin] = error
        work[:, end:] -= errors @ factor[begin:end, end:]

    return QuantizedWeight(codes[:, torch.argsort(order)], scale.half(), zero.byte(), scheme)


def inverse_cholesky(hessian: Tensor, damp_percent: float) -> Tensor:
    """The upper triangular U with U^T U = (H + damp_percent * mean(diag H) * I)^-1, (in in).

    Row i of U, divided by its diagonal, is the correction of the later columns for an error in column i. Inputs that
    were never active get a unit diagonal and no correction. Factored in float64; the damping is raised up to four
    times while the matrix is not positive definite.
    """
    matrix = hessian.double()
    matrix.diagonal()[matrix.diagonal() == 0] = 1
    for _ in range(5):
        damped = (
            matrix + damp_percent * matrix.diagonal().mean() * torch.eye(len(matrix), device=matrix.device).double()
        )
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).to(hessian.dtype)
        damp_percent = max(10 * damp_percent, 1e-4)
    raise UserError(
        "the second moment of a layer's calibration inputs is not positive definite (inputs not finite?)",
        hint="more or other calibration text, or quantize.method = rtn",
    )
