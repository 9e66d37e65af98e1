"""The vocabulary shared over the tensor axis: each rank embeds, scores and judges its own tokens.

No rank ever has the logits of all tokens. What the loss needs of the others are two numbers for each place: the
logarithm of the sum of exponentials, and the logit of the right token (Shoeybi et al. 2019, section 3).
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.head import Head, OwnHead
from groundup.model.loss import CHUNK, IGNORE
from groundup.model.precision import product_dtype
from groundup.parallel.collectives import Group, spread, total
from groundup.parallel.mesh import Mesh
from groundup.parallel.parts import cut, local, override, own_bias


def share_embedding(embedding: nn.Module, mesh: Mesh) -> None:
    """Each rank holds the vectors of its own tokens."""
    cut(embedding, "weight", 0, mesh.weights["tensor"])
    override(embedding, "forward", _embed, embedding, mesh)


def share_head(head: Head, mesh: Mesh) -> None:
    """Each rank scores its own tokens. A tied head's matrix was cut with the embedding."""
    if isinstance(head, OwnHead):
        cut(head, "weight", 0, mesh.weights["tensor"])
    override(head, "forward", _scores, head, mesh)
    override(head, "loss", _loss, head, mesh)


def _first(size: int, mesh: Mesh) -> int:
    """The first token of this rank."""
    return mesh.rank("tensor") * size // mesh.size("tensor")


def _embed(embedding: nn.Embedding, mesh: Mesh, tokens: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
    weight = local(embedding.weight)
    places = tokens - _first(embedding.num_embeddings, mesh)
    strange = (places < 0) | (places >= weight.shape[0])
    found = F.embedding(places.masked_fill(strange, 0), weight).masked_fill(strange[..., None], 0.0)
    return total(found, mesh.group("tensor"))


def _scores(head: Head, mesh: Mesh, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
    """Scores of all tokens, put together: for evaluation."""
    own = F.linear(head.scale(hidden), local(head.weight), own_bias(head.bias, mesh))
    first = _first(head.weight.shape[0], mesh)
    behind = head.weight.shape[0] - first - own.shape[-1]
    return head.cap(total(F.pad(own, (first, behind)), mesh.group("tensor")))


def _loss(
    head: Head, mesh: Mesh, hidden: Float[Tensor, "... D"], labels: Int[Tensor, "..."], z_loss: float = 0.0
) -> Float[Tensor, ""]:
    group = mesh.group("tensor")
    return vocabulary_cross_entropy(
        spread(head.scale(hidden).flatten(0, -2), group),
        local(head.weight),
        labels.flatten(),
        _first(head.weight.shape[0], mesh),
        group,
        bias=own_bias(head.bias, mesh),
        softcap=head.limit,
        z_loss=z_loss,
    )


def vocabulary_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "W D"],
    labels: Int[Tensor, " N"],
    first: int,
    group: Group,
    *,
    bias: Float[Tensor, " W"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk: int = CHUNK,
) -> Float[Tensor, ""]:
    """As `model.loss.linear_cross_entropy`, where this rank has the rows `first` and following of the head.

    The gradient of `hidden` is this rank's share of a sum over the group.
    """
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return _VocabularyCrossEntropy.apply(hidden, weight, bias, labels, first, group, softcap, z_loss, chunk)  # type: ignore[return-value]


class _VocabularyCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        first: int,
        group: Group,
        softcap: float | None,
        z_loss: float,
        chunk: int,
    ) -> Tensor:
        dtype = product_dtype(hidden)
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        predicted = (labels != IGNORE).sum().clamp(min=1)
        loss = hidden.new_zeros((), dtype=torch.float32)
        learns = any(ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(hidden) if learns else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if learns else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if learns and bias is not None else None
        for begin in range(0, hidden.shape[0], chunk):
            part = hidden[begin : begin + chunk].to(dtype)
            label = labels[begin : begin + chunk, None]
            counts = (label != IGNORE).float() / predicted
            logits = F.linear(part, matrix, offset).float()
            capped = None
            if softcap is not None:
                capped = torch.tanh(logits / softcap)
                logits = softcap * capped
            place = label - first
            mine = (label != IGNORE) & (place >= 0) & (place < weight.shape[0])
            place = place.masked_fill(~mine, 0)
            log_sum, right = _over_the_group(logits, place, mine, group)
            loss += ((log_sum - right + z_loss * log_sum.square()) * counts).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            # d loss / d logits = softmax * (1 + 2 z log_sum) - onehot(label)
            grad = (logits - log_sum).exp_()
            grad *= counts * (1 + 2 * z_loss * log_sum)
            grad.scatter_add_(1, place, -counts * mine)
            if capped is not None:
                grad *= 1 - capped.square()
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(dtype)
            grad_hidden[begin : begin + chunk] = grad @ matrix
            grad_weight += grad.T @ part
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        bias = None if grad_bias is None else (grad_bias * grad_loss).to(ctx.dtypes[1])
        return grad_hidden * grad_loss, (grad_weight * grad_loss).to(ctx.dtypes[1]), bias, *(None,) * 6


def _over_the_group(logits: Tensor, place: Tensor, mine: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """log sum exp of all ranks' logits, and the logit at `place` of the rank whose token it is: both (N 1)."""
    largest = logits.amax(dim=-1, keepdim=True)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    sums = (logits - largest).exp().sum(dim=-1, keepdim=True)
    both = torch.cat((sums, logits.gather(1, place) * mine), dim=1)
    dist.all_reduce(both, group=group)
    return both[:, :1].log() + largest, both[:, 1:]
