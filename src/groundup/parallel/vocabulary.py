"""The vocabulary shared over the tensor axis: each rank embeds, scores and judges its own tokens.

No rank ever has the logits of all tokens. What the loss needs of the others are two numbers for each place: the
logarithm of the sum of exponentials, and the logit of the right token (Shoeybi et al. 2019, section 3).
"""

from functools import partial
from typing import Any

import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.head import Head, OwnHead
from groundup.model.loss import Share, linear_cross_entropy
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
    return linear_cross_entropy(
        spread(head.scale(hidden).flatten(0, -2), group),
        local(head.weight),
        labels.flatten(),
        bias=own_bias(head.bias, mesh),
        softcap=head.limit,
        z_loss=z_loss,
        share=Share(
            _first(head.weight.shape[0], mesh),
            largest=partial(_over_the_group, group=group, operation=dist.ReduceOp.MAX),
            total=partial(_over_the_group, group=group, operation=dist.ReduceOp.SUM),
        ),
    )


def _over_the_group(x: Tensor, group: Group, operation: Any) -> Tensor:
    dist.all_reduce(x, operation, group=group)
    return x
