"""GPTQ (Frantar et al. 2022, "Accurate Post-Training Quantization for Generative Pre-trained Transformers").

Rounding a column makes an error in the layer's output. The columns not yet rounded can undo part of it: the
best correction under squared output error follows from the inverse Hessian H = X X^T of the layer's inputs
(OBQ, Frantar and Alistarh 2022). GPTQ takes the columns in one order for all rows, so that one Cholesky
factor serves every row and every step (its section 3, "step 3"), and delays corrections of far columns by
blocks (its "step 2").
"""

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, find_params

LAZY_UPDATE_COLUMNS = 128
"""About as many columns hand their corrections to the rest together; changes speed only."""


def gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: QuantizationScheme,
    *,
    damp_percent: float = 0.01,
    act_order: bool = False,
) -> QuantizedWeight:
    """Round `weight` column by column, each time correcting the columns that are still free.

    Args:
        weight: (out in).
        hessian: (in in), the second moment of the layer's inputs; its scale does not matter. The work is done
            in its dtype.
        damping: added to the diagonal, as a share of its mean (section 3, "step 3").
        act_order: take the columns with the largest inputs first. The grids are then fitted to the original
            weights, so that groups stay side by side in memory; otherwise each group's grid is fitted when
            its turn comes, to the corrected weights.

    Raises UserError for weights that are not finite.
    """
    width = weight.shape[1]
    scale, zero = find_params(weight, scheme)
    order = (
        torch.argsort(hessian.diagonal(), descending=True, stable=True) if act_order else torch.arange(width)
    )
    place = order.tolist()
    work = weight[:, order].to(hessian.dtype, copy=True)
    factor = inverse_cholesky(hessian[order][:, order], damp_percent)
    codes = torch.empty_like(work, dtype=torch.uint8)
    span = scheme.group_size * max(
        1, LAZY_UPDATE_COLUMNS // scheme.group_size
    )  # whole groups, so that none waits for corrections

    for begin in range(0, width, span):
        end = min(begin + span, width)
        errors = torch.empty_like(work[:, begin:end])
        for column in range(begin, end):
            group = place[column] // scheme.group_size
            if not act_order and column % scheme.group_size == 0:
                own_scale, own_zero = find_params(work[:, column : column + scheme.group_size], scheme)
                scale[:, group], zero[:, group] = own_scale[:, 0], own_zero[:, 0]
            s, z = scale[:, group], zero[:, group]
            code = ((work[:, column] / s).round() + z).clamp(0, scheme.max_code)
            codes[:, column] = code.to(torch.uint8)
            error = (work[:, column] - (code - z) * s) / factor[column, column]
            work[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - begin] = error
        work[:, end:] -= errors @ factor[begin:end, end:]

    return QuantizedWeight(codes[:, torch.argsort(order)], scale.half(), zero.byte(), scheme)


def inverse_cholesky(hessian: Tensor, damp_percent: float) -> Tensor:
    """The upper triangular U with U^T U = (H + damping * mean(diag H) * I)^-1, (in in).

    Row i of U, divided by its diagonal, says how the later columns make up for an error in column i when the
    earlier ones are already fixed. An input that was never active gets an own direction: it neither helps nor
    is helped. Factored in float64; more damping is tried where the matrix is still not positive definite.
    """
    matrix = hessian.double()
    matrix.diagonal()[matrix.diagonal() == 0] = 1
    for _ in range(5):
        damped = (
            matrix
            + damp_percent * matrix.diagonal().mean() * torch.eye(len(matrix), device=matrix.device).double()
        )
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).to(hessian.dtype)
        damp_percent = max(10 * damp_percent, 1e-4)
    raise UserError(
        "the calibration inputs of a layer have no usable second moment (not finite?)",
        hint="more or other calibration text, or quantize.method = rtn",
    )
