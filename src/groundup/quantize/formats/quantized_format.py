"""What a foreign format of quantized weights is: how one layer's tensors and the whole model's description
are written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.quantize.quantization_grid import QuantizationScheme, QuantizedWeight


@dataclass(frozen=True)
class QuantizedFormat:
    """A layout that others read. All three write W = (codes - zero) * scale in groups along the input, as we
    do.

    Attributes:
        name: `quant_method` in config.json.
        layout: the tensor whose name tells a quantized layer: `<layer>.<layout>`.
        shape: the shape of that tensor -> the (out, in) of the weight.
        write: a weight -> its tensors by their last name; floating ones in the given dtype where the format
            lets us choose.
        read: the tensors back to the weight. Raises UserError where they are of a kind that we do not have.
        describe: a scheme -> `quantization_config` of config.json. Raises UserError for a scheme it cannot
            hold.
        scheme: `quantization_config` -> the scheme. Raises UserError likewise.
    """

    name: str
    key_tensor: str
    weight_shape: Callable[[tuple[int, ...], QuantizationScheme], tuple[int, int]]
    to_tensors: Callable[[QuantizedWeight, torch.dtype], dict[str, Tensor]]
    from_tensors: Callable[[Mapping[str, Tensor], QuantizationScheme], QuantizedWeight]
    to_config: Callable[[QuantizationScheme], dict[str, Any]]
    scheme_from_config: Callable[[Mapping[str, Any]], QuantizationScheme]
