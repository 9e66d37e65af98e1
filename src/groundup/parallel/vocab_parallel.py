"""Vocab-parallel embedding, head and loss: each rank of the tensor axis has a range of the vocabulary.

No rank ever has the logits of all tokens. The loss exchanges two numbers for each position: the log of the sum of
exponentials, and the logit of the label (Shoeybi et al. 2019, section 3).
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
from groundup.parallel.module_surgery import local_bias, local_tensor, shard_parameter, specialize
from groundup.plan.layout.parallel_layout import vocab_parallel_rows


def shard_embedding(embedding: nn.Embedding, mesh: Mesh) -> None:
    shard_parameter(embedding, "weight", 0, mesh.weight_mesh["tensor"])
    specialize(embedding, _VocabParallelEmbedding, mesh=mesh)


def shard_head(head: Head, mesh: Mesh) -> None:
    """A tied head's matrix is sharded with the embedding."""
    if isinstance(head, UntiedHead):
        shard_parameter(head, "weight", 0, mesh.weight_mesh["tensor"])
    specialize(head, _VocabParallelHead, mesh=mesh)


class _VocabParallelEmbedding(nn.Embedding):
    mesh: Mesh

    def forward(self, tokens: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:  # type: ignore[override]
        weight = local_tensor(self.weight)
        index = tokens - _vocab_start(self.num_embeddings, self.mesh)
        other_rank = (index < 0) | (index >= weight.shape[0])
        vectors = F.embedding(index.masked_fill(other_rank, 0), weight)
        return all_reduce(vectors.masked_fill(other_rank[..., None], 0.0), self.mesh.group("tensor"))


class _VocabParallelHead(Head):
    mesh: Mesh

    def forward(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """The full logits, for evaluation."""
        logits = F.linear(self.scale(hidden), local_tensor(self.weight), local_bias(self.bias, self.mesh))
        start = _vocab_start(self.weight.shape[0], self.mesh)
        padding = (start, self.weight.shape[0] - start - logits.shape[-1])
        return self.softcap(all_reduce(F.pad(logits, padding), self.mesh.group("tensor")))

    def loss(
        self, hidden: Float[Tensor, "... D"], labels: Int[Tensor, "..."], z_loss: float = 0.0
    ) -> Float[Tensor, ""]:
        group = self.mesh.group("tensor")
        return linear_cross_entropy(
            all_reduce_in_backward(self.scale(hidden).flatten(0, -2), group),
            local_tensor(self.weight),
            labels.flatten(),
            bias=local_bias(self.bias, self.mesh),
            softcap=self.logit_softcap,
            z_loss=z_loss,
            vocab_shard=VocabShard(
                _vocab_start(self.weight.shape[0], self.mesh),
                all_reduce_max=partial(_all_reduce, group=group, operation=dist.ReduceOp.MAX),
                all_reduce_sum=partial(_all_reduce, group=group, operation=dist.ReduceOp.SUM),
            ),
        )


def _vocab_start(vocab_size: int, mesh: Mesh) -> int:
    """The first token id of this rank; the last rank has fewer where the ranks do not divide the vocabulary."""
    return mesh.rank("tensor") * vocab_parallel_rows(vocab_size, mesh.size("tensor"))


def _all_reduce(x: Tensor, group: Group, operation: Any) -> Tensor:
    dist.all_reduce(x, operation, group=group)
    return x
