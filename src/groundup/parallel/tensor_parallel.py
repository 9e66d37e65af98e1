"""Tensor parallelism: every matrix is shared by the devices of the tensor axis (Shoeybi et al. 2019, Megatron-LM).

The first matrix of a pair is cut by columns (queries, keys, values; gate, up), the second by rows (o_proj, down_proj),
so that a pair needs one sum over the devices. With sequence parallelism (Korthikanti et al. 2022) what lies between the
pairs is shared along the sequence, and the sum becomes a gather before each pair and a scatter behind it.

Weights are cut as DTensors, which know what they are a part of: that is how checkpoints, norms and sharding see them.
The arithmetic runs on the local parts. In evaluation the sequence is not shared, so that any length will do. A mixture
of experts keeps its weights whole and works on its part of the sequence; its own axis is in expert_parallel.py.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
    patch_method,
    shard_parameter,
)
from groundup.parallel.vocab_parallel import shard_embedding, shard_head

SEQUENCE_DIM = 1
"""The dimension of (B T D) that is shared between the matrices."""


def apply_tensor_parallel(model: nn.Module, mesh: Mesh) -> list[str]:
    """Cut the matrices of `model` over the tensor axis.

    Returns the names of the parameters that stay whole on every rank but see a part of the work only: their gradients
    are shares of a sum (see gradients.py).
    """
    shares: set[int] = set()
    for block in find_blocks(model):
        for part in block.children():
            if isinstance(part, Attention | CrossAttention):
                shares |= _shard_attention(part, mesh)
                _gather_inputs(part, mesh)
                if isinstance(part, CrossAttention):
                    patch_method(part, "project_memory", _project_memory, part.project_memory, mesh)
            elif isinstance(part, FeedForward | GatedFeedForward):
                for name, linear in part.named_children():
                    if name == "down_proj":
                        _shard_rows(linear, mesh)
                    else:
                        _shard_columns(linear, mesh)
                        shares.add(id(linear.bias))
                _gather_inputs(part, mesh)
        if mesh.layout.sequence_parallel:
            shares |= {id(p) for p in block.parameters() if not is_sharded(p, "tensor")}
    for stack in find_stacks(model):
        for sight in stack.position_encodings.values():
            if isinstance(sight, RelativePositionEncoding):
                patch_method(sight, "forward", _shard_relative_bias, sight.forward, mesh)
                shares |= {id(p) for p in sight.parameters()}
    if isinstance(model.embedding, Embedding):
        shard_embedding(model.embedding.tokens, mesh)
    for head in find_heads(model):
        shard_head(head, mesh)
        shares.add(id(head.bias))
    if mesh.layout.sequence_parallel:
        if isinstance(model.embedding, Embedding):
            model.embedding.register_forward_hook(partial(_split_sequence, mesh=mesh))
        for norm in find_final_norms(model):
            shares |= {id(p) for p in norm.parameters()}
            norm.register_forward_hook(partial(_gather_sequence, mesh=mesh))
    return [name for name, parameter in model.named_parameters() if id(parameter) in shares]


def _shard_columns(linear: nn.Module, mesh: Mesh) -> None:
    shard_parameter(linear, "weight", 0, mesh.weight_mesh["tensor"])
    linear.__class__ = _ColumnParallelLinear
    vars(linear)["mesh"] = mesh


def _shard_rows(linear: nn.Module, mesh: Mesh) -> None:
    shard_parameter(linear, "weight", 1, mesh.weight_mesh["tensor"])
    linear.__class__ = _RowParallelLinear
    vars(linear)["mesh"] = mesh


class _ColumnParallelLinear(nn.Linear):
    """Some of a layer's outputs. A class, where a function for each layer would be compiled for each anew."""

    mesh: Mesh

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, local_tensor(self.weight), local_bias(self.bias, self.mesh))


class _RowParallelLinear(nn.Linear):
    """A share of the sum that a layer's outputs are. The bias is added to the sum, once."""

    mesh: Mesh

    def forward(self, x: Tensor) -> Tensor:
        share = F.linear(x, local_tensor(self.weight))
        if _uses_sequence_parallel(self, self.mesh):
            out = reduce_scatter(share, SEQUENCE_DIM, self.mesh.group("tensor"))
        else:
            out = all_reduce(share, self.mesh.group("tensor"))
        return out if self.bias is None else out + self.bias.to(out.dtype)


def _uses_sequence_parallel(module: nn.Module, mesh: Mesh) -> bool:
    return mesh.layout.sequence_parallel and module.training


def _gather_inputs(part: nn.Module, mesh: Mesh) -> None:
    """Before a pair of matrices: the whole sequence, on which each rank will do other work."""

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = inputs
        x = cast_for_matmul(
            x
        )  # which read it in that dtype alone: half as much to send, and to sum on the way back
        group = mesh.group("tensor")
        whole = (
            all_gather(x, SEQUENCE_DIM, group)
            if _uses_sequence_parallel(module, mesh)
            else all_reduce_in_backward(x, group)
        )
        return (whole, *rest)

    part.register_forward_pre_hook(enter)


def _project_memory(
    look_at: Callable[..., CrossKeyValues], mesh: Mesh, memory: Tensor, mask: AttentionMask
) -> CrossKeyValues:
    return look_at(all_reduce_in_backward(memory, mesh.group("tensor")), mask)


def _shard_attention(attention: Attention | CrossAttention, mesh: Mesh) -> set[int]:
    """Each rank has its own query heads, and the key and value heads that they look at.

    Where there are fewer of those than ranks, or they do not divide, their matrices stay whole and each rank computes
    the heads that it needs. Returns what stays whole.
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
            own = torch.arange(query_heads).chunk(size)[rank]
            rows = key_heads_for_queries(own, query_heads // kv_heads)[:, None] * head_dim + torch.arange(
                head_dim
            )
            linear.__class__, linear.rows = _SelectedColumnsLinear, rows.flatten()
    return {id(p) for p in attention.parameters() if not is_sharded(p, "tensor")} - {
        id(attention.o_proj.bias)
    }


def key_heads_for_queries(queries: Tensor, group: int) -> Tensor:
    """The key heads of some query heads, of which `group` neighbours share one; each once, where that fits."""
    wanted = queries // group
    once = wanted.unique()
    each = len(wanted) // len(once)
    return once if torch.equal(once.repeat_interleave(each), wanted) else wanted


class _SelectedColumnsLinear(nn.Linear):
    """The outputs of a whole layer that the rank's own heads need."""

    rows: Tensor

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows.to(x.device)
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return F.linear(x, self.weight.index_select(0, rows), bias)


def _shard_relative_bias(
    forward: Callable[..., AttentionContext], mesh: Mesh, *inputs: Any
) -> AttentionContext:
    """T5's bias differs from head to head: of the own heads."""
    view = forward(*inputs)
    assert view.mask.dense is not None
    return AttentionContext(
        replace(view.mask, dense=local_chunk(view.mask.dense, 1, mesh.group("tensor"))), view.rotation
    )


def _split_sequence(module: nn.Module, inputs: Any, x: Tensor, *, mesh: Mesh) -> Tensor:
    return split(x, SEQUENCE_DIM, mesh.group("tensor")) if module.training else x


def _gather_sequence(module: nn.Module, inputs: Any, x: Tensor, *, mesh: Mesh) -> Tensor:
    return all_gather_replicated(x, SEQUENCE_DIM, mesh.group("tensor")) if module.training else x
