"""The short causal convolution before the state of Mamba-2 and of the gated delta rule: one filter for each channel."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def convolve(
    inputs: Float[Tensor, "B T C"], convolution: nn.Conv1d, before: Float[Tensor, "B W C"] | None
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W C"]]:
    """SiLU of a convolution over each token and the few before it; also the last inputs, for the tokens to come."""
    width = convolution.kernel_size[0] - 1
    if before is None:
        before = inputs.new_zeros(inputs.shape[0], width, inputs.shape[2])
    inputs = torch.cat((before.to(inputs.dtype), inputs), dim=1)
    weight, bias = convolution.weight.to(inputs.dtype), convolution.bias
    bias = None if bias is None else bias.to(inputs.dtype)
    outputs = F.conv1d(inputs.transpose(1, 2), weight, bias, groups=convolution.groups).transpose(1, 2)
    return F.silu(outputs), inputs[:, inputs.shape[1] - width :]
