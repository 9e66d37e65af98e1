"""Linear layer with weights and inputs in 8 bits (W8A8), the layer of SmoothQuant: products of whole numbers.

Each token's input vector is divided by its largest magnitude and rounded to -127 to 127 as it comes; each row of the weight has
one scale. The sums of products are exact in 32 bits, and the two scales multiply the result.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from groundup.quantize.layers.quantized_linear import QuantizedLinear
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme

INT8_INPUTS = QuantizationScheme(8, WHOLE_ROW, input_bits=8)
MAX_INPUT_CODE = 127


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
        else:  # exact as well: whole numbers below 2^53
            sums = F.linear(codes.double(), weight.double()).float()
        outputs = sums * scale * self.scale.float().T
        outputs = outputs if self.bias is None else outputs + self.bias.float()
        return outputs.to(x.dtype).view(*x.shape[:-1], self.out_features)


def round_inputs(x: Float[Tensor, "M in"]) -> tuple[Float[Tensor, "M in"], Float[Tensor, "M 1"]]:
    """Codes, whole numbers in float32, and the scale of each row."""
    x = x.float()
    scale = (x.abs().amax(1, keepdim=True) / MAX_INPUT_CODE).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / scale).round_(), scale
