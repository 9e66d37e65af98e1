"""Linear layer with weights and inputs in 8 bits (W8A8), the layer of SmoothQuant: products of whole numbers.

Each token's input vector is divided by its largest magnitude and rounded to -127 to 127 as it comes; each row of the weight has
one scale. The two scales multiply the sums of products, which are exact in 32 bits on a CPU.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from groundup.quantize.layers.quantized_linear import QuantizedLinear
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme

INT8_INPUTS = QuantizationScheme(8, WHOLE_ROW, input_bits=8)
MAX_INPUT_CODE = 127
EXACT_COLUMNS = 1_024
"""Products of so many codes sum to less than 2^24, up to which float32, and TF32 with it, holds every whole number."""


class Int8Linear(QuantizedLinear):
    """y = q(x) W^T + b, W and q(x) in 8 bits, on any device."""

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        outputs = self._product(x.detach())
        if torch.is_grad_enabled() and x.requires_grad:  # the gradient of the product without rounding
            unrounded = super().forward(x)
            return unrounded + (outputs - unrounded).detach()
        return outputs

    def _product(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        codes, scale = round_inputs(x.flatten(0, -2))
        weight = (self.packed ^ self.scheme.mid_code).view(torch.int8)  # code less the zero
        if x.device.type == "cpu":
            sums = torch._int_mm(codes.to(torch.int8), weight.T).float()
        else:
            sums = float_product(codes, weight)
        outputs = sums * scale * self.scale.float().T
        outputs = outputs if self.bias is None else outputs + self.bias.float()
        return outputs.to(x.dtype).view(*x.shape[:-1], self.out_features)


def float_product(codes: Float[Tensor, "M in"], weight: Int[Tensor, "out in"]) -> Float[Tensor, "M out"]:
    """codes W^T, the sums of EXACT_COLUMNS columns exact: for devices without a product of whole numbers or of float64."""
    parts = zip(codes.split(EXACT_COLUMNS, 1), weight.split(EXACT_COLUMNS, 1), strict=True)
    sums = torch.zeros(len(codes), len(weight), device=codes.device)
    for some, columns in parts:
        sums += F.linear(some, columns.float())
    return sums


def round_inputs(x: Float[Tensor, "M in"]) -> tuple[Float[Tensor, "M in"], Float[Tensor, "M 1"]]:
    """Codes, whole numbers in float32, and the scale of each row."""
    x = x.float()
    scale = (x.abs().amax(1, keepdim=True) / MAX_INPUT_CODE).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / scale).round_(), scale
