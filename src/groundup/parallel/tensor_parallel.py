"""Tensor parallelism: the matrices of each block are sharded over the tensor axis (Shoeybi et al. 2019, Megatron-LM).

Of each pair of matrices the first is column-parallel (queries, keys, values; gate, up), the second row-parallel (o_proj,
down_proj), so that a pair needs one all-reduce. With sequence parallelism (Korthikanti et al. 2022) activations between
the pairs are sharded along the sequence, and the all-reduce becomes an all-gather before each pair and a reduce-scatter
after it; in evaluation they are not, so that any sequence length works.

Weights are DTensors, so that checkpoints, gradient norms and FSDP know the full shape; the arithmetic runs on the local
chunks. Experts are not sharded here (see expert_parallel.py): they work on their rank's part of the sequence.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.model.attention import Attention, AttentionContext, CrossAttention, CrossKeyValues
from groundup.model.attention_mask import AttentionMask
from groundup.model.embedding import Embedding
from groundup.model.feed_forward import FeedForward, GatedFeedForward
from groundup.model.matmul_precision import cast_for_matmul
from groundup.model.position_encoding import RelativePositionEncoding
from groundup.parallel.collectives import (
    all_gather,
    all_gather_replicated,
    all_reduce,
    all_reduce_in_backward,
    local_chunk,
    reduce_scatter,
    split,
)
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import (
    find_blocks,
    find_final_norms,
    find_heads,
    find_stacks,
    is_sharded,
    local_bias,
    local_tensor,
    shard_parameter,
    specialize,
)
from groundup.parallel.vocab_parallel import shard_embedding, shard_head

SEQUENCE_DIM = 1
"""Of activations (B T D)."""


def apply_tensor_parallel(model: nn.Module, mesh: Mesh) -> list[str]:
    """Shard the matrices of `model` over the tensor axis.

    Returns the names of parameters that are replicated but see a part of the work only: their gradients are partial
    sums (see gradients.py).
    """
    partial: set[int] = set()
    for block in find_blocks(model):
        for part in block.children():
            if isinstance(part, Attention | CrossAttention):
                partial |= _shard_attention(part, mesh)
            elif isinstance(part, FeedForward | GatedFeedForward):
                for name, linear in part.named_children():
                    if name == "down_proj":
                        _shard_rows(linear, mesh)
                    else:
                        _shard_columns(linear, mesh)
                        partial.add(id(linear.bias))
                specialize(part, _TensorParallelInput, mesh=mesh)
        if mesh.layout.sequence_parallel:
            partial |= {id(p) for p in block.parameters() if not is_sharded(p, "tensor")}
    for stack in find_stacks(model):
        for encoding in stack.position_encodings.values():
            if isinstance(encoding, RelativePositionEncoding):
                specialize(encoding, _TensorParallelBias, mesh=mesh)
                partial |= {id(p) for p in encoding.parameters()}
    if isinstance(model.embedding, Embedding):
        shard_embedding(model.embedding.tokens, mesh)
    for head in find_heads(model):
        shard_head(head, mesh)
        partial.add(id(head.bias))
    if mesh.layout.sequence_parallel:
        if isinstance(model.embedding, Embedding):
            specialize(model.embedding, _SplitSequence, mesh=mesh)
        for norm in find_final_norms(model):
            partial |= {id(p) for p in norm.parameters()}
            specialize(norm, _GatherSequence, mesh=mesh)
    return [name for name, parameter in model.named_parameters() if id(parameter) in partial]


def _shard_columns(linear: nn.Module, mesh: Mesh) -> None:
    shard_parameter(linear, "weight", 0, mesh.weight_mesh["tensor"])
    specialize(linear, _ColumnParallel, mesh=mesh)


def _shard_rows(linear: nn.Module, mesh: Mesh) -> None:
    shard_parameter(linear, "weight", 1, mesh.weight_mesh["tensor"])
    specialize(linear, _RowParallel, mesh=mesh)


def _shard_attention(attention: Attention | CrossAttention, mesh: Mesh) -> set[int]:
    """Shard by heads: each rank has some query heads, and the key and value heads that these use.

    Where the ranks do not divide the key heads, k_proj and v_proj are replicated and each rank computes the heads that
    it needs. Returns the ids of replicated parameters with partial gradients.
    """
    size, rank, head_dim = mesh.size("tensor"), mesh.rank("tensor"), attention.head_dim
    query_heads = attention.q_proj.out_features // head_dim
    kv_heads = attention.k_proj.out_features // head_dim
    _shard_columns(attention.q_proj, mesh)
    _shard_rows(attention.o_proj, mesh)
    for linear in (attention.k_proj, attention.v_proj):
        if kv_heads % size == 0:
            _shard_columns(linear, mesh)
        else:
            queries = torch.arange(query_heads).chunk(size)[rank]
            heads = key_heads_for_queries(queries, query_heads // kv_heads)
            rows = heads[:, None] * head_dim + torch.arange(head_dim)
            specialize(linear, _SelectedColumns, rows=rows.flatten())
    cross = isinstance(attention, CrossAttention)
    specialize(attention, _TensorParallelCrossAttention if cross else _TensorParallelInput, mesh=mesh)
    return {id(p) for p in attention.parameters() if not is_sharded(p, "tensor")} - {id(attention.o_proj.bias)}


def key_heads_for_queries(queries: Tensor, group: int) -> Tensor:
    """The key heads of `queries`, of which `group` neighbours use one: each once if that gives equal groups."""
    heads = queries // group
    unique = heads.unique()
    repeats = len(heads) // len(unique)
    return unique if torch.equal(unique.repeat_interleave(repeats), heads) else heads


def _uses_sequence_parallel(module: nn.Module, mesh: Mesh) -> bool:
    return mesh.layout.sequence_parallel and module.training


class _ColumnParallel(nn.Linear):
    """A chunk of a layer's outputs."""

    mesh: Mesh

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, local_tensor(self.weight), local_bias(self.bias, self.mesh))


class _RowParallel(nn.Linear):
    """Partial sums of a layer's outputs, reduced. The bias is added once, to the sum."""

    mesh: Mesh

    def forward(self, x: Tensor) -> Tensor:
        partial = F.linear(x, local_tensor(self.weight))
        if _uses_sequence_parallel(self, self.mesh):
            out = reduce_scatter(partial, SEQUENCE_DIM, self.mesh.group("tensor"))
        else:
            out = all_reduce(partial, self.mesh.group("tensor"))
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _SelectedColumns(nn.Linear):
    """Selected outputs of a replicated layer."""

    rows: Tensor

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows.to(x.device)
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return F.linear(x, self.weight.index_select(0, rows), bias)


class _TensorParallelInput(nn.Module):
    """The full sequence before a pair of matrices, on which each rank does different work."""

    mesh: Mesh

    def forward(self, x: Tensor, *inputs: Any) -> Tensor:
        x = cast_for_matmul(x)  # bfloat16 halves what is sent
        group = self.mesh.group("tensor")
        if _uses_sequence_parallel(self, self.mesh):
            x = all_gather(x, SEQUENCE_DIM, group)
        else:
            x = all_reduce_in_backward(x, group)
        return super().forward(x, *inputs)


class _TensorParallelCrossAttention(_TensorParallelInput):
    mesh: Mesh

    def project_memory(self, memory: Tensor, mask: AttentionMask) -> CrossKeyValues:
        memory = all_reduce_in_backward(memory, self.mesh.group("tensor"))
        return super().project_memory(memory, mask)  # type: ignore[misc]


class _TensorParallelBias(RelativePositionEncoding):
    """T5's bias, which differs between heads, of this rank's heads."""

    mesh: Mesh

    def forward(self, *inputs: Any) -> AttentionContext:
        mask, rotation = super().forward(*inputs)
        assert mask.dense is not None
        return AttentionContext(replace(mask, dense=local_chunk(mask.dense, 1, self.mesh.group("tensor"))), rotation)


class _SplitSequence(nn.Module):
    """Output: this rank's part of the sequence."""

    mesh: Mesh

    def forward(self, *inputs: Any) -> Tensor:
        x = super().forward(*inputs)
        return split(x, SEQUENCE_DIM, self.mesh.group("tensor")) if self.training else x


class _GatherSequence(nn.Module):
    """Output: the full sequence, on which each rank does the same work."""

    mesh: Mesh

    def forward(self, *inputs: Any) -> Tensor:
        x = super().forward(*inputs)
        return all_gather_replicated(x, SEQUENCE_DIM, self.mesh.group("tensor")) if self.training else x
