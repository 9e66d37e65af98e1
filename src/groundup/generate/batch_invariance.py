"""Deterministic generation: tokens and log-probabilities of a request do not depend, in any bit, on what else is computed.

Not on the other requests of the batch, their number and order; not on how a prompt is cut into chunks, on shared beginnings
in the cache, or on a preemption. The rule: every number that belongs to a token is computed by the same operations, in the same
order, from that token's numbers and from the keys and values of the tokens before it. The step in C (native/) is written that
way, and reads prompts too where it knows the model (`all_steps_in_c`). Elsewhere it holds because

- matrix products are computed in tiles of a fixed shape, in which all rows are alike (fixed_shape_products.py);
- attention adds its terms in an order that depends on the positions of the keys alone (chunked_attention.py);
- norms, softmax and router work on each row by itself, and elementwise functions on each number; some of PyTorch's compute
  the last numbers of a tensor, which fill no vector register, in another way: those get whole registers here;
- random numbers come from the generator of the request, and the logits of a request are reduced by themselves.

Then, by induction over layers and positions, what a token leaves in the cache is the same, whoever computes it, and so are
its logits. The operations of a pass are replaced as they are called; those that have no such form are refused. The promise is
for one machine, one version of PyTorch and one number of threads.

He and Thinking Machines Lab 2025, "Defeating Nondeterminism in LLM Inference", describe it for GPUs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from groundup.artifacts.errors import UserError
from groundup.generate.chunked_attention import chunked_attention
from groundup.generate.fixed_shape_products import row_linear
from groundup.model.attention import SinkAttention, sdpa_attention, softcap_attention
from groundup.model.frozen_linear import PackedLinear
from groundup.model.latent_attention import LatentAttention

Model = TypeVar("Model", bound=nn.Module)
REGISTERS, ONE_THREAD = 64, 32_768
"""Numbers that fill whole vector registers in any dtype; numbers up to which PyTorch does not use several threads."""


def make_deterministic(model: Model) -> Model:
    """Let `model` generate the same answer to a request, bit for bit, under any load; see this module. Returns it.

    Raises UserError for a model on another device than a CPU, and with state-space layers or linear attention.

    >>> make_deterministic(model)
    """
    if getattr(model, "batch_invariant", False):
        return model
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise UserError(
            f"deterministic with a model on {device.type}, expected cpu",
            hint="kernels of other devices choose the order of their sums by the batch; vLLM has batch invariance for GPUs",
        )
    if getattr(model.config, "has_state", False):
        raise UserError(
            "deterministic with state-space layers or linear attention",
            hint="their states depend on how a prompt is cut into chunks",
        )
    for module in model.modules():
        if hasattr(module, "attention_function"):
            module.attention_function = _chunked_form(module.attention_function)  # type: ignore[assignment]
        if isinstance(module, LatentAttention):
            module.absorbs = False
        if isinstance(module, PackedLinear):
            module.batch_invariant = True
    model.batch_invariant = True  # type: ignore[assignment]
    return model


def batch_invariance(model: nn.Module) -> AbstractContextManager[Any]:
    """The context of a forward pass: what `make_deterministic` promised, if it was called for `model`."""
    return BatchInvariance() if getattr(model, "batch_invariant", False) else nullcontext()


class BatchInvariance(TorchFunctionMode):
    """Replaces the functions of `REPLACED`, and refuses those of `REFUSED`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (replacement := REPLACED.get(func)) is not None:
            return replacement(*args, **(kwargs or {}))
        if func in REFUSED:
            raise UserError(
                f"deterministic: torch's {func.__name__} has no form for single rows", hint="run without it"
            )
        return func(*args, **(kwargs or {}))


def in_whole_registers(function: Callable[..., Tensor], x: Float[Tensor, "..."], *args: Any, **options: Any) -> Tensor:
    """An elementwise function, of pieces that one thread computes in whole vector registers."""
    count = x.numel()
    if count <= ONE_THREAD and count % REGISTERS == 0 and x.is_contiguous():
        return function(x, *args, **options)
    padded = F.pad(x.flatten(), (0, -count % REGISTERS))
    parts = [function(part, *args, **options) for part in padded.split(ONE_THREAD)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:count].view(x.shape)


def _chunked_form(function: Any) -> Callable[..., Tensor]:
    """`chunked_attention` with the scale, cap and sinks of an attention function."""
    if isinstance(function, SinkAttention):
        return ChunkedSinkAttention(function)
    if isinstance(function, partial) and function.func in (sdpa_attention, softcap_attention):
        return partial(chunked_attention, **function.keywords)
    raise UserError(f"deterministic with {function}, expected attention of this project", hint="run without it")


class ChunkedSinkAttention(nn.Module):
    """`SinkAttention` by chunks of keys."""

    def __init__(self, attention: SinkAttention):
        super().__init__()
        self.sinks, self.scale = attention.sinks, attention.scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        return chunked_attention(query, key, value, mask, scale=self.scale, sinks=self.sinks)


REPLACED: dict[Any, Callable[..., Any]] = {F.linear: row_linear} | {
    function: partial(in_whole_registers, function)
    for function in (
        F.silu, F.gelu, F.softplus, F.logsigmoid, F.mish, F.elu, torch.sigmoid, Tensor.sigmoid, torch.rsqrt, Tensor.rsqrt,
    )
}  # fmt: skip
REFUSED = {
    *(getattr(torch, name) for name in ("mm", "bmm", "mv", "dot", "addmm", "addbmm", "baddbmm", "matmul", "einsum", "tensordot")),
    *(getattr(Tensor, name) for name in ("mm", "bmm", "mv", "dot", "matmul", "__matmul__", "__rmatmul__")),
    *(getattr(F, name) for name in ("conv1d", "bilinear", "scaled_dot_product_attention", "grouped_mm")),
    torch.linalg.solve_triangular, torch.cdist,
}  # fmt: skip
"""Products for which no row-wise form is written here."""
