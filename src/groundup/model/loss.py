"""Cross-entropy of the head's scores, a chunk of tokens at a time: the logits never exist all at once.

Logits of 8,192 tokens over 128,000 entries are 4 GB in float32, and their gradient is as much again. But a
token's gradient needs that token's logits alone: each chunk's logits are made, turned into their gradient in
place, multiplied into the gradients of the hidden states and of the head, and dropped. The backward pass has
nothing left to do but to scale. (The idea: Wijmans et al. 2024, "Cut your losses"; Hsu et al. 2024, Liger
Kernel.)
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model.precision import product_dtype

IGNORE = -100
"""The label of a position that is not predicted."""

CHUNKS = {"cuda": 4096}
CHUNK = 1024
"""Tokens whose logits exist at one time, on each kind of device, and on any other."""


class Share(NamedTuple):
    """Which rows of the head's matrix are here, where others have the rest.

    Attributes:
        first: number of the first row that is here.
        largest, total: make of a number for each token, known here, that of all rows: the maximum, and the sum.
    """

    first: int
    largest: Callable[[Tensor], Tensor]
    total: Callable[[Tensor], Tensor]


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk: int | None = None,
    compiled: bool = False,
    share: Share | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of softmax(hidden weight^T + bias) over the labels that are not -100.

    Args:
        softcap: c, where logits become c tanh(logit / c).
        z_loss: weight of the mean of log(sum exp(logits))^2, against drifting logits (PaLM, section 5).
        chunk: tokens whose logits exist at one time; None: what is quick on the device.
        compiled: whether to compile what lies between the products, which then takes a fraction of its time.
        share: where `weight` and `bias` are but some rows of the whole. The loss is that of the whole; the gradient
            of `hidden` is this share's part of a sum.
    """
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    chunk = chunk or CHUNKS.get(hidden.device.type, CHUNK)
    options = softcap, z_loss, chunk, compiled, share
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, *options)  # type: ignore[return-value]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
        z_loss: float,
        chunk: int,
        compiled: bool,
        share: Share | None,
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dtype = product_dtype(hidden)
        matrix = weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        predicted = (labels != IGNORE).sum().clamp(min=1)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs_bias else None
        needs_gradient = needs_hidden or needs_weight or needs_bias
        size = min(chunk, hidden.shape[0]), weight.shape[0]
        products = weight.new_empty(size, dtype=dtype)
        if compiled and share is None:
            take_loss = _fused()
        else:
            # Every chunk uses the same memory: fresh pages for each would cost more time than the arithmetic.
            take_loss = partial(
                loss_in_place, scores=weight.new_empty(size, dtype=torch.float32), share=share
            )
        for begin in range(0, hidden.shape[0], chunk):
            part = hidden[begin : begin + chunk].to(dtype)
            label = labels[begin : begin + chunk, None]
            counts = (label != IGNORE).float() / predicted
            product = products[: len(part)]
            torch.mm(part, matrix.T, out=product)
            if offset is not None:
                product += offset
            total += take_loss(product, label, counts, softcap, z_loss, needs_gradient)
            if not needs_gradient:
                continue
            if grad_bias is not None:
                grad_bias += product.sum(dim=0, dtype=torch.float32)
            if grad_hidden is not None:
                grad_hidden[begin : begin + chunk] = product @ matrix
            if grad_weight is not None:
                grad_weight += product.T @ part
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight, grad_bias = (
            None if grad is None else (grad * grad_loss).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return grad_hidden, grad_weight, grad_bias, *(None,) * 6


def loss_in_place(
    product: Float[Tensor, "C V"],
    label: Int[Tensor, "C 1"],
    counts: Float[Tensor, "C 1"],
    softcap: float | None,
    z_loss: float,
    needs_gradient: bool,
    *,
    scores: Float[Tensor, "D V"],
    share: Share | None = None,
) -> Float[Tensor, ""]:
    """What a chunk of scores adds to the loss; the scores become its gradient, if that is needed.

    Args:
        counts: weight of each token in the mean.
        scores: memory for at least C rows.
    """
    logits = scores[: len(product)].copy_(product)
    place = label if share is None else label - share.first
    here = (label != IGNORE) & (place >= 0) & (place < product.shape[1])
    place = place.masked_fill(~here, 0)
    capped = None
    if softcap is not None:
        capped = torch.tanh(logits / softcap)
        torch.mul(capped, softcap, out=logits)
    right = logits.gather(1, place) * here
    highest = logits.amax(dim=-1, keepdim=True)
    if share is not None:
        highest = share.largest(highest)
    exponentials = logits.sub_(highest).exp_()
    sums = exponentials.sum(dim=-1, keepdim=True)
    if share is not None:
        sums, right = share.total(torch.cat((sums, right), dim=1)).split(1, dim=1)
    log_sum = sums.log() + highest
    if needs_gradient:
        # d loss / d logits = softmax * (1 + 2 z log_sum) - onehot(label)
        grad = exponentials.mul_(counts * (1 + 2 * z_loss * log_sum) / sums)
        grad.scatter_add_(1, place, -counts * here)
        if capped is not None:
            grad *= 1 - capped.square()
        product.copy_(grad)
    return ((log_sum - right + z_loss * log_sum.square()) * counts).sum()


def loss_by_kernels(
    product: Float[Tensor, "C V"],
    label: Int[Tensor, "C 1"],
    counts: Float[Tensor, "C 1"],
    softcap: float | None,
    z_loss: float,
    needs_gradient: bool,
) -> Float[Tensor, ""]:
    """As `loss_in_place`, written for a compiler: two kernels that keep float32 in registers."""
    here = label != IGNORE
    place = label.masked_fill(~here, 0)
    logits = product.float()
    capped = None
    if softcap is not None:
        capped = torch.tanh(logits / softcap)
        logits = capped * softcap
    log_sum = logits.logsumexp(dim=-1, keepdim=True)
    right = logits.gather(1, place) * here
    if needs_gradient:
        onehot = (torch.arange(product.shape[1], device=product.device) == place).float()
        grad = (torch.exp(logits - log_sum) * (1 + 2 * z_loss * log_sum) - onehot) * counts
        product.copy_(grad if capped is None else grad * (1 - capped.square()))
    return ((log_sum - right + z_loss * log_sum.square()) * counts).sum()


@once
def _fused() -> Callable[..., Tensor]:
    """A dozen passes over the scores become three."""
    return torch.compile(loss_by_kernels)
