"""From a whole model to this rank's part of it, by one fixed order of changes from outside.

The model's code knows of none of them. The order matters: each step takes what the one before it left.

    1. pipeline      which blocks are here at all
    2. experts       which experts of each mixture
    3. tensor        which part of each matrix
    4. context       which part of each sequence
    5. recompute     each block forgets what it can compute again
    6. compile       each block, with all of the above inside, and the loss
    7. shard         weights are spread over whoever sees other tokens
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.context_parallel import apply_context_parallel
from groundup.parallel.expert_parallel import apply_expert_parallel, apply_global_load_balancing
from groundup.parallel.fsdp import apply_fsdp
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import find_blocks, find_heads
from groundup.parallel.pipeline_parallel import StageModule, split_pipeline
from groundup.parallel.tensor_parallel import apply_tensor_parallel


@dataclass(frozen=True)
class ParallelModel:
    """What a rank has of a model.

    Attributes:
        models: the model, or the pieces of it that are here, each with the names of the whole.
        pieces: the stages of a pipeline, in the order of `models`; empty without one.
        shares: parameters whose gradients are shares of a sum over the tensor axis.
    """

    model_parts: list[nn.Module]
    stages: list[StageModule] = field(default_factory=list)
    partial_grad_parameters: list[nn.Parameter] = field(default_factory=list)


def parallelize(
    model: nn.Module,
    mesh: Mesh,
    *,
    precision: str = "float32",
    loss: Callable[..., Any] | None = None,
    checkpointing: ActivationCheckpointing = "none",
    compiled: bool = False,
) -> ParallelModel:
    """Turn `model`, the same on every rank, into this rank's part of it. It is used up.

    Args:
        precision: of the matrix products, as in train.precision; see fsdp.py.
        loss: (model, batch) -> loss, which the pieces of a pipeline call.
        checkpointing: what blocks forget; see activation_checkpointing.py.
        compiled: compile each block, and the loss.
    """
    layout = mesh.layout
    pieces = split_pipeline(model, mesh, loss) if layout.pipeline > 1 and loss is not None else []
    models = [piece.model for piece in pieces] or [model]
    shares: list[str] = []
    for part in models:
        if layout.expert > 1:
            apply_expert_parallel(part, mesh)
        apply_global_load_balancing(part, mesh)
        if layout.tensor > 1:
            shares += apply_tensor_parallel(part, mesh)
        if layout.context > 1:
            apply_context_parallel(part, mesh)
        apply_activation_checkpointing(part, checkpointing)
        # PyTorch cannot compile a block that forgets and asks a mesh for its group.
        compilable = compiled and not (checkpointing != "none" and layout.tensor > 1)
        for block in find_blocks(part) if compilable else ():
            block.compile()
        for head in find_heads(part):
            head.compiled = compiled
    for part in pieces or models:
        if mesh.size("replicate") * mesh.size("data") > 1:
            apply_fsdp(part, mesh, precision)
    named = [item for part in models for item in part.named_parameters()]
    return ParallelModel(models, pieces, [parameter for name, parameter in named if name in set(shares)])
