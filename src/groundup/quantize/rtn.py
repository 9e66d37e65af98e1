"""Round to nearest: every weight takes the closest value of its group's grid. No data, no order, no regret.

What every other method is measured against.
"""

from torch import Tensor

from groundup.quantize.quantization_grid import (
    QuantizationScheme,
    QuantizedWeight,
    find_params,
    quantize_weight,
)


def round_to_nearest(weight: Tensor, scheme: QuantizationScheme) -> QuantizedWeight:
    """`weight` (out in) on the grid that spans each of its groups. Raises UserError for weights that are not
    finite.
    """
    scale, zero = find_params(weight, scheme)
    return QuantizedWeight(quantize_weight(weight, scale, zero, scheme), scale.half(), zero.byte(), scheme)
