"""Four bits on a CPU, fast: one token's matrix products read the codes as they are, through torch's own
kernel.

De-quantizing a matrix costs more than using it for a few rows. torch's `_weight_int4pack_mm_for_cpu`
multiplies packed codes directly, in bfloat16 (about 0.3% off, a small part of what four bits cost anyway).
For many rows, as when a prompt is read, the exact way is taken.
"""

import torch
from torch import Tensor, nn

from groundup.quantize.quantized_linear import QuantizedLinear, quantized_layers
from groundup.quantize.quantizer import replace_modules

GROUP_SIZES = (32, 64, 128, 256)
OUTPUT_MULTIPLE = 16
"""The kernel wants a multiple of this many outputs."""
MAX_ROWS = 16
"""From more rows on, de-quantizing is worth it (measured on two cores with AVX-512)."""


class Int4Linear(nn.Module):
    """A QuantizedLinear with a second copy of its codes in the order that the kernel reads.

    Elsewhere than on a CPU it does what the layer inside does.
    """

    packed: Tensor
    grid: Tensor

    def __init__(self, exact: QuantizedLinear):
        super().__init__()
        self.exact = exact
        weight = exact.unpack_weight()
        scale = weight.scale.float().T
        middle = (
            exact.scheme.mid_code - weight.zero.float().T
        ) * scale  # the kernel computes (code - 8) * scale + this
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer(
            "grid", torch.stack([scale, middle], -1).to(torch.bfloat16).contiguous(), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows > MAX_ROWS or x.device.type != "cpu":
            return self.exact(x)
        flat = x.reshape(rows, -1).to(torch.bfloat16)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            flat, self.packed, self.exact.scheme.group_size, self.grid
        )
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.exact.bias is None else y + self.exact.bias.to(x.dtype)


def use_int4_kernel(model: nn.Module) -> nn.Module:
    """Give the layers of a model on a CPU the fast way, where the kernel takes them. Returns the model.

    For models that are only used: not before they are saved or exported.
    """
    replace_modules(
        model,
        {name: Int4Linear(layer) for name, layer in quantized_layers(model).items() if is_supported(layer)},
    )
    return model


def is_supported(layer: QuantizedLinear) -> bool:
    """Whether the kernel takes this layer."""
    scheme = layer.scheme
    return (
        layer.packed.device.type == "cpu"
        and scheme.bits == 4
        and scheme.group_size in GROUP_SIZES
        and layer.out_features % OUTPUT_MULTIPLE == 0
    )
