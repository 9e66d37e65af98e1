"""Round to nearest (RTN): the baseline method, without calibration."""

from torch import Tensor

from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight, find_params, quantize_weight


def round_to_nearest(weight: Tensor, scheme: QuantizationScheme) -> QuantizedWeight:
    """`weight` (out in) rounded to the grid of each group. Raises UserError for weights that are not finite."""
    scale, zero = find_params(weight, scheme)
    return QuantizedWeight(quantize_weight(weight, scale, zero, scheme), scale.half(), zero.byte(), scheme)
