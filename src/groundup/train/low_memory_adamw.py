"""AdamW with less memory: moments of one byte each, bfloat16 weights without float32 copies, or both.

Implemented here because other implementations depend on a vendor's devices or a PyTorch version. Group-wise scales are
from Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", with PyTorch's float8 format instead of their
table of 256 values. Three bits of mantissa suffice for two reasons: the second moment is stored as its square root, which
halves its exponent range; and both are rounded stochastically, because rounding to nearest would undo a decay of a few
percent a step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groundup.parallel.module_surgery import local_tensor

GROUP_SIZE = 256
"""Values that share a scale."""
FLOAT8 = torch.float8_e4m3fn
MAX_FLOAT8 = torch.finfo(FLOAT8).max
MIN_FLOAT8 = 2.0**-9
"""The smallest positive value of FLOAT8."""
DROPPED_BITS = {torch.bfloat16: 16, torch.float8_e4m3fn: 20}
"""Bits of a float32's mantissa that the format does not have."""


class LowMemoryAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019), computed in float32, one parameter at a time.

    Args:
        float8_state: store the moments in 2 bytes a weight instead of 8.
        stochastic_rounding: round bfloat16 weights stochastically instead of to nearest.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        float8_state: bool = False,
        stochastic_rounding: bool = True,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.float8_state, self.stochastic_rounding = float8_state, stochastic_rounding

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update_parameter(weight, group)

    def _update_parameter(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        gradient = weight.grad.float()  # type: ignore[union-attr]
        if not state:
            state["step"] = torch.zeros(())
            self._store_moments(state, torch.zeros_like(gradient), torch.zeros_like(gradient))
        state["step"] += 1
        step, (beta1, beta2) = state["step"].item(), group["betas"]
        # Element-wise: of a sharded weight, the local shard.
        mean, root = (local_tensor(moment) for moment in self._load_moments(state, weight.shape))
        weight, gradient = local_tensor(weight), local_tensor(gradient)
        mean.lerp_(gradient, 1 - beta1)
        root.square_().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).sqrt_()
        if self.float8_state:
            self._store_moments(state, mean, root)
        master = weight.float()  # no copy if it is float32
        master.mul_(1 - group["lr"] * group["weight_decay"])
        scale = group["lr"] / (1 - beta1**step)
        master.addcdiv_(mean, (root / (1 - beta2**step) ** 0.5).add_(group["eps"]), value=-scale)
        if weight.dtype == torch.bfloat16 and self.stochastic_rounding:
            weight.copy_(stochastic_round(master, weight.dtype))
        elif weight.dtype != torch.float32:
            weight.copy_(master)

    def _store_moments(self, state: dict[str, Tensor], mean: Tensor, root: Tensor) -> None:
        """Store the first moment, and the root of the second."""
        if self.float8_state:
            state["mean"], state["mean_scale"] = quantize_moment(mean)
            state["root"], state["root_scale"] = quantize_moment(root, minimum=MIN_FLOAT8)
        else:
            state["mean"], state["root"] = mean, root

    def _load_moments(self, state: dict[str, Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
        if self.float8_state:
            return dequantize_moment(state["mean"], state["mean_scale"], shape), dequantize_moment(
                state["root"], state["root_scale"], shape
            )
        return state["mean"], state["root"]


def quantize_moment(x: Tensor, minimum: float | None = None) -> tuple[Tensor, Tensor]:
    """Float8 values and a scale for each GROUP_SIZE of them.

    With `minimum`, no value is less than that times the scale, so that a divisor cannot become zero.
    """
    groups = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % GROUP_SIZE)).view(-1, GROUP_SIZE)
    scale = groups.abs().amax(dim=1, keepdim=True) / MAX_FLOAT8
    groups = (groups / scale.clamp(min=torch.finfo(torch.float32).tiny)).clamp_(-MAX_FLOAT8, MAX_FLOAT8)
    if minimum is not None:
        groups.clamp_(min=minimum)
    return stochastic_round(groups, FLOAT8), scale


def dequantize_moment(values: Tensor, scale: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `quantize_moment`, float32."""
    return (values.float() * scale).flatten()[: shape.numel()].view(shape)


def stochastic_round(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x`, float32, as `dtype`: each value becomes one of its two neighbours, so that the expectation is `x`.

    Rounding to nearest would lose small updates: bfloat16 weights near 1 are 0.004 or more apart. Rounded up with
    probability 1/40, an update of 0.0001 is right on average (Gupta et al. 2015, "Deep Learning with Limited Numerical
    Precision"; for bfloat16 weights Zamirai et al. 2020, "Revisiting BFloat16 Training").

    Uses torch's generator of the device. Values must be in the range of `dtype`; subnormal ones are rounded to nearest.
    """
    bits = DROPPED_BITS[dtype]
    chance = torch.randint_like(x, 1 << bits, dtype=torch.int32)
    pattern = x.contiguous().view(torch.int32).add(chance).bitwise_and_(-1 << bits)
    return pattern.view(torch.float32).to(dtype)
