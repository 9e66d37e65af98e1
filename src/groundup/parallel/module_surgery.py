"""Changes that parallelism makes to a model from outside: classes in front of modules, and sharded parameters.

`specialize` puts a mixin in front of a module's class, as PyTorch's `fully_shard` does. The module keeps its weights,
names and hooks, and its own methods are called with `super()`. The class is made once for each pair of classes, so
that torch.compile, which guards on classes, compiles alike blocks once. `restore` undoes the last mixin.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from groundup.model.block import BLOCKS, CrossAttentionBlock, SharedNormBlock, StateSpaceBlock
from groundup.model.embedding import PassThrough
from groundup.model.encoder_decoder import DecoderStack, EncoderStack
from groundup.model.head import Head
from groundup.parallel.mesh import Mesh

BLOCK_TYPES = (*BLOCKS.values(), SharedNormBlock, CrossAttentionBlock, StateSpaceBlock)


def specialize(module: nn.Module, mixin: type[nn.Module], **attributes: Any) -> None:
    """Let the methods of `mixin` override those of `module`, from now on; `attributes` are those it annotates."""
    assert attributes.keys() == mixin.__annotations__.keys()
    vars(module).update(attributes)
    module.__class__ = _subclass(mixin, type(module))


def restore(module: nn.Module) -> None:
    """Undo the last `specialize`."""
    mixin, base = type(module).__bases__
    for name in mixin.__annotations__:
        del vars(module)[name]
    module.__class__ = base


@cache
def _subclass(mixin: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    return type(f"{mixin.__name__.removeprefix('_')}{base.__name__}", (mixin, base), {})


def shard_parameter(module: nn.Module, name: str, dim: int, mesh: DeviceMesh) -> None:
    """Keep this rank's chunk of a parameter along `dim`, as a DTensor. All ranks have the same values: nothing is sent."""
    parameter = module.get_parameter(name)
    shard = distribute_tensor(parameter.detach(), mesh, [Shard(dim)], src_data_rank=None)
    setattr(module, name, nn.Parameter(shard, requires_grad=parameter.requires_grad))


def local_tensor(parameter: Tensor | None) -> Any:
    """This rank's chunk of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def local_bias(bias: Tensor | None, mesh: Mesh) -> Tensor | None:
    """This rank's chunk of a column-parallel bias. The parameter itself is replicated."""
    return None if bias is None else bias.chunk(mesh.size("tensor"))[mesh.rank("tensor")]


def is_sharded(parameter: Tensor, axis: str) -> bool:
    """Whether ranks along `axis` hold different chunks of a parameter."""
    if not isinstance(parameter, DTensor):
        return False
    # Not `is_shard`, which is false for the placement of a dimension that is sharded twice.
    axes = zip(parameter.device_mesh.mesh_dim_names or (), parameter.placements, strict=True)
    return axis in {name for name, placement in axes if not placement.is_replicate()}


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, in order."""
    return [module for module in model.modules() if isinstance(module, BLOCK_TYPES)]


def find_stacks(model: nn.Module) -> list[Any]:
    """Modules with position encodings, blocks and a final norm: the model itself, or its encoder and decoder."""
    return [part for part in model.modules() if isinstance(part, EncoderStack | DecoderStack)] or [model]


def find_final_norms(model: nn.Module) -> list[nn.Module]:
    """The final norms on this pipeline stage."""
    norms = [stack.final_norm for stack in find_stacks(model)]
    return [norm for norm in norms if not isinstance(norm, PassThrough)]


def find_heads(model: nn.Module) -> list[Head]:
    """Modules that compute logits: the head, or the one inside a masked-LM head."""
    return [module for module in model.modules() if isinstance(module, Head)]
