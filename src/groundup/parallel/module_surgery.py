"""Where the parts of a model are, in all three architectures: what the axes take hold of."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from groundup.model.block import CrossAttentionBlock, PostNormBlock, PreNormBlock, SandwichBlock
from groundup.model.encoder_decoder import DecoderStack, EncoderStack
from groundup.model.head import Head
from groundup.parallel.mesh import Mesh

BLOCK_TYPES = (PreNormBlock, PostNormBlock, SandwichBlock, CrossAttentionBlock)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, in order."""
    return [module for module in model.modules() if isinstance(module, BLOCK_TYPES)]


def find_stacks(model: nn.Module) -> list[Any]:
    """What has position_encodings, blocks and a final norm: the model itself, or its encoder and its decoder."""
    return [part for part in model.modules() if isinstance(part, EncoderStack | DecoderStack)] or [model]


def find_final_norms(model: nn.Module) -> list[nn.Module]:
    """What comes before a head, or before what looks at the encoder; those that are here."""
    norms = [stack.final_norm for stack in find_stacks(model)]
    return [norm for norm in norms if not isinstance(norm, StagePassThrough)]


def find_heads(model: nn.Module) -> list[Head]:
    """What scores the vocabulary: inside of a masked head, or the head itself."""
    return [module for module in model.modules() if isinstance(module, Head)]


def shard_parameter(module: nn.Module, name: str, dim: int, mesh: DeviceMesh) -> None:
    """Keep this rank's part of a parameter along `dim`. Every rank has the same whole one, so nothing is sent."""
    whole = module.get_parameter(name)
    part = distribute_tensor(whole.detach(), mesh, [Shard(dim)], src_data_rank=None)
    setattr(module, name, nn.Parameter(part, requires_grad=whole.requires_grad))


def local_tensor(parameter: Tensor | None) -> Any:
    """The part of a parameter that is here."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def patch_method(module: Any, method: str, function: Callable[..., Any], *bound_args: Any) -> None:
    """Let `module.method(...)` be `function(*first, ...)` from now on, for this one module."""
    setattr(module, method, partial(function, *bound_args))


def local_bias(bias: Tensor | None, mesh: Mesh) -> Tensor | None:
    """This rank's part of the bias of columns, which stays whole: a vector cut twice is more trouble than it saves."""
    return None if bias is None else bias.chunk(mesh.size("tensor"))[mesh.rank("tensor")]


def is_sharded(parameter: Tensor, axis: str) -> bool:
    """Whether ranks along `axis` hold different pieces of a parameter."""
    if not isinstance(parameter, DTensor):
        return False
    # Not `is_shard`: what is cut twice along one dimension is a kind of its own, of which that is false.
    cut = {
        name
        for name, placement in zip(
            parameter.device_mesh.mesh_dim_names or (), parameter.placements, strict=True
        )
        if not placement.is_replicate()
    }
    return axis in cut


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that learn, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


class StagePassThrough(nn.Module):
    """In place of a part that another device has: gives back its first input."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x
