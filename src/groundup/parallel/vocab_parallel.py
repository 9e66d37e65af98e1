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

from groundup.model.head import Head, UntiedHead
from groundup.model.loss import VocabShard, linear_cross_entropy
from groundup.parallel.collectives import Group, all_reduce, all_reduce_in_backward
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import local_bias, local_tensor, patch_method, shard_parameter


def shard_embedding(embedding: nn.Module, mesh: Mesh) -> None:
    """Each rank holds the vectors of its own tokens."""
    shard_parameter(embedding, "weight", 0, mesh.weight_mesh["tensor"])
    patch_method(embedding, "forward", _embed, embedding, mesh)


def shard_head(head: Head, mesh: Mesh) -> None:
    """Each rank scores its own tokens. A tied head's matrix was cut with the embedding."""
    if isinstance(head, UntiedHead):
        shard_parameter(head, "weight", 0, mesh.weight_mesh["tensor"])
    patch_method(head, "forward", _logits, head, mesh)
    patch_method(head, "loss", _loss, head, mesh)


def _vocab_start(size: int, mesh: Mesh) -> int:
    """The first token of this rank."""
    return mesh.rank("tensor") * size // mesh.size("tensor")


def _embed(embedding: nn.Embedding, mesh: Mesh, tokens: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
    weight = local_tensor(embedding.weight)
    places = tokens - _vocab_start(embedding.num_embeddings, mesh)
    strange = (places < 0) | (places >= weight.shape[0])
    found = F.embedding(places.masked_fill(strange, 0), weight).masked_fill(strange[..., None], 0.0)
    return all_reduce(found, mesh.group("tensor"))


def _logits(head: Head, mesh: Mesh, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
    """Scores of all tokens, put together: for evaluation."""
    own = F.linear(head.scale(hidden), local_tensor(head.weight), local_bias(head.bias, mesh))
    first = _vocab_start(head.weight.shape[0], mesh)
    behind = head.weight.shape[0] - first - own.shape[-1]
    return head.softcap(all_reduce(F.pad(own, (first, behind)), mesh.group("tensor")))


def _loss(
    head: Head, mesh: Mesh, hidden: Float[Tensor, "... D"], labels: Int[Tensor, "..."], z_loss: float = 0.0
) -> Float[Tensor, ""]:
    group = mesh.group("tensor")
    return linear_cross_entropy(
        all_reduce_in_backward(head.scale(hidden).flatten(0, -2), group),
        local_tensor(head.weight),
        labels.flatten(),
        bias=local_bias(head.bias, mesh),
        softcap=head.logit_softcap,
        z_loss=z_loss,
        vocab_shard=VocabShard(
            _vocab_start(head.weight.shape[0], mesh),
            all_reduce_max=partial(_all_reduce, group=group, operation=dist.ReduceOp.MAX),
            all_reduce_sum=partial(_all_reduce, group=group, operation=dist.ReduceOp.SUM),
        ),
    )


def _all_reduce(x: Tensor, group: Group, operation: Any) -> Tensor:
    dist.all_reduce(x, operation, group=group)
    return x
