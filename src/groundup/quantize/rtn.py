"""Round to nearest: every weight takes the closest value of its group's grid. No data, no order, no regret.

What every other method is measured against.
"""

from torch import Tensor

from groundup.quantize.grid import QuantizedWeight, Scheme, encode, fit


def round_to_nearest(weight: Tensor, scheme: Scheme) -> QuantizedWeight:
    """`weight` (out in) on the grid that spans each of its groups. Raises UserError for weights that are not
    finite.
    """
    scale, zero = fit(weight, scheme)
    return QuantizedWeight(encode(weight, scale, zero, scheme), scale.half(), zero.byte(), scheme)
