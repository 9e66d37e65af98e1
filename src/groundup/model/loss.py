"""Cross-entropy of the head's logits, computed in chunks of tokens, so that all logits never exist at once.

Logits of 8,192 tokens and 128,000 vocabulary entries are 4 GB in float32, and so is their gradient. But the gradient of a
token needs only that token's logits: the logits of each chunk are computed, replaced by their gradient in place, multiplied
into the gradients of the hidden states and of the head, and dropped. The backward pass only scales them. (Wijmans et al.
2024, "Cut your losses"; Hsu et al. 2024, Liger Kernel.)
"""

from collections.abc import Callable
from functools import cache as once
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.model.matmul_precision import matmul_dtype
from groundup.model.token_rows import TokenRows

IGNORE_INDEX = -100
"""The label of positions that are not predicted."""

CHUNK_SIZES = {"cuda": 4096}
DEFAULT_CHUNK_SIZE = 1024
"""Tokens per chunk, by device type and elsewhere."""

FROZEN_CHUNK_SIZE = 256
"""Where the head is frozen, as in LoRA: each chunk then adds nothing to a gradient of the head, for which large ones pay."""


MASKED_FRACTION = 0.9
"""Positions that are predicted, of all, below which the others are left out: selecting them is a copy."""


class VocabShard(NamedTuple):
    """The rows of the head's matrix on this rank, of a vocabulary sharded over ranks.

    Attributes:
        start: index of the first row of the shard.
        all_reduce_max, all_reduce_sum: reduce one number per token over the ranks.
    """

    start: int
    all_reduce_max: Callable[[Tensor], Tensor]
    all_reduce_sum: Callable[[Tensor], Tensor]


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk_size: int | None = None,
    compiled: bool = False,
    vocab_shard: VocabShard | None = None,
    rows: TokenRows | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of softmax(hidden weight^T + bias) over the labels that are not -100.

    Where many are, as in conversations, the others take no part.

    Args:
        softcap: c, where logits become c tanh(logit / c).
        z_loss: weight of the mean of log(sum exp(logits))^2, which keeps logits from drifting (PaLM, section 5).
        chunk_size: tokens per chunk; None: the default of the device.
        compiled: compile the code between the matrix products, which is several times as fast.
        vocab_shard: `weight` and `bias` are these rows of a sharded vocabulary. The loss is that of the whole vocabulary;
            the gradient of `hidden` is this shard's term of a sum.
        rows: updates of a few rows of `weight`, which is frozen.
    """
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    is_frozen = hidden.requires_grad and not weight.requires_grad
    default = FROZEN_CHUNK_SIZE if is_frozen else DEFAULT_CHUNK_SIZE
    chunk_size = chunk_size or CHUNK_SIZES.get(hidden.device.type, default)
    options = softcap, z_loss, chunk_size, compiled, vocab_shard
    if (
        type(labels) is Tensor and vocab_shard is None and not torch.compiler.is_compiling()
    ):  # their number must be known
        predicted = (labels != IGNORE_INDEX).nonzero().flatten()
        if len(predicted) < MASKED_FRACTION * len(labels):
            hidden, labels = hidden[predicted], labels[predicted]
    row_indices, delta = rows or (None, None)
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, *options, row_indices, delta)  # type: ignore[return-value]


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
        chunk_size: int,
        compiled: bool,
        vocab_shard: VocabShard | None,
        row_indices: Tensor | None,
        delta: Tensor | None,
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        needs_delta = ctx.needs_input_grad[-1]
        dtype = matmul_dtype(hidden)
        matrix = weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        predicted = (labels != IGNORE_INDEX).sum().clamp(min=1)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs_bias else None
        grad_delta = torch.zeros_like(delta, dtype=torch.float32) if delta is not None and needs_delta else None
        update = None if delta is None else delta.to(dtype)
        needs_gradient = needs_hidden or needs_weight or needs_bias or needs_delta
        size = min(chunk_size, hidden.shape[0]), weight.shape[0]
        products = weight.new_empty(size, dtype=dtype)
        if compiled and vocab_shard is None:
            chunk_loss = _compiled_chunk_loss()
        else:
            # One buffer for all chunks: page faults of new memory would take longer than the arithmetic.
            chunk_loss = partial(
                chunk_loss_eager, scores=weight.new_empty(size, dtype=torch.float32), vocab_shard=vocab_shard
            )
        for begin in range(0, hidden.shape[0], chunk_size):
            rows = hidden[begin : begin + chunk_size].to(dtype)
            label = labels[begin : begin + chunk_size, None]
            counts = (label != IGNORE_INDEX).float() / predicted
            product = products[: len(rows)]
            torch.mm(rows, matrix.T, out=product)
            if update is not None and row_indices is not None:
                product.index_add_(1, row_indices, rows @ update.T)
            if offset is not None:
                product += offset
            total += chunk_loss(product, label, counts, softcap, z_loss, needs_gradient)
            if not needs_gradient:
                continue
            if grad_bias is not None:
                grad_bias += product.sum(dim=0, dtype=torch.float32)
            if grad_hidden is not None:
                grad_hidden[begin : begin + chunk_size] = product @ matrix
            if grad_weight is not None:
                grad_weight += product.T @ rows
            if update is not None and row_indices is not None:
                part = product[:, row_indices]
                if grad_hidden is not None:
                    grad_hidden[begin : begin + chunk_size] += part @ update
                if grad_delta is not None:
                    grad_delta += part.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_delta)
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype, torch.float32
        return total

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight, grad_bias, grad_delta = (
            None if grad is None else (grad * grad_loss).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return grad_hidden, grad_weight, grad_bias, *(None,) * 7, grad_delta


def chunk_loss_eager(
    product: Float[Tensor, "C V"],
    label: Int[Tensor, "C 1"],
    token_weights: Float[Tensor, "C 1"],
    softcap: float | None,
    z_loss: float,
    needs_gradient: bool,
    *,
    scores: Float[Tensor, "_ V"],
    vocab_shard: VocabShard | None = None,
) -> Float[Tensor, ""]:
    """The loss of a chunk of logits `product`, which is overwritten by its gradient if that is needed.

    Args:
        token_weights: weight of each token in the mean.
        scores: a buffer of at least C rows.
    """
    logits = scores[: len(product)].copy_(product)
    index = label if vocab_shard is None else label - vocab_shard.start
    valid = (label != IGNORE_INDEX) & (index >= 0) & (index < product.shape[1])
    index = index.masked_fill(~valid, 0)
    capped = None
    if softcap is not None:
        capped = torch.tanh(logits / softcap)
        torch.mul(capped, softcap, out=logits)
    label_logits = logits.gather(1, index) * valid
    highest = logits.amax(dim=-1, keepdim=True)
    if vocab_shard is not None:
        highest = vocab_shard.all_reduce_max(highest)
    exponentials = logits.sub_(highest).exp_()
    sums = exponentials.sum(dim=-1, keepdim=True)
    if vocab_shard is not None:
        sums, label_logits = vocab_shard.all_reduce_sum(torch.cat((sums, label_logits), dim=1)).split(1, dim=1)
    log_sum = sums.log() + highest
    if needs_gradient:
        # d loss / d logits = softmax * (1 + 2 z log_sum) - onehot(label)
        grad = exponentials.mul_(token_weights * (1 + 2 * z_loss * log_sum) / sums)
        grad.scatter_add_(1, index, -token_weights * valid)
        if capped is not None:
            grad *= 1 - capped.square()
        product.copy_(grad)
    return ((log_sum - label_logits + z_loss * log_sum.square()) * token_weights).sum()


def chunk_loss_compiled(
    product: Float[Tensor, "C V"],
    label: Int[Tensor, "C 1"],
    token_weights: Float[Tensor, "C 1"],
    softcap: float | None,
    z_loss: float,
    needs_gradient: bool,
) -> Float[Tensor, ""]:
    """`chunk_loss_eager` for torch.compile: two kernels that keep float32 in registers."""
    valid = label != IGNORE_INDEX
    index = label.masked_fill(~valid, 0)
    logits = product.float()
    capped = None
    if softcap is not None:
        capped = torch.tanh(logits / softcap)
        logits = capped * softcap
    log_sum = logits.logsumexp(dim=-1, keepdim=True)
    label_logits = logits.gather(1, index) * valid
    if needs_gradient:
        onehot = (torch.arange(product.shape[1], device=product.device) == index).float()
        grad = (torch.exp(logits - log_sum) * (1 + 2 * z_loss * log_sum) - onehot) * token_weights
        product.copy_(grad if capped is None else grad * (1 - capped.square()))
    return ((log_sum - label_logits + z_loss * log_sum.square()) * token_weights).sum()


@once
def _compiled_chunk_loss() -> Callable[..., Tensor]:
    """Three passes over the logits instead of a dozen."""
    return torch.compile(chunk_loss_compiled)
