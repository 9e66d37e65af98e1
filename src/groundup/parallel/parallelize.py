"""Apply all axes of a parallel layout to a model, in a fixed order.

Each transformation is made from outside; the model's code knows of none. The order matters:

    1. pipeline        the blocks of this rank's stages
    2. expert          the experts of this rank in each mixture
    3. tensor          this rank's chunk of each matrix
    4. context         this rank's part of each sequence
    5. checkpointing   blocks recompute their activations
    6. compile         each block with all of the above, and the loss
    7. fsdp            weights sharded or replicated over the data axes
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import ActivationCheckpointing
from groundup.parallel.activation_checkpointing import apply_activation_checkpointing
from groundup.parallel.context_parallel import apply_context_parallel
from groundup.parallel.expert_parallel import apply_expert_parallel, apply_global_load_balancing
from groundup.parallel.fsdp import PRECISIONS, apply_fsdp
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import find_blocks, find_heads
from groundup.parallel.pipeline_parallel import StageModule, split_pipeline
from groundup.parallel.tensor_parallel import apply_tensor_parallel


@dataclass(frozen=True)
class ParallelModel:
    """One rank's part of a model.

    Attributes:
        model_parts: the model, or with a pipeline the model of each stage on this rank. Names are those of the full model.
        stages: the pipeline stages, in the order of `model_parts`; empty without a pipeline.
        partial_grad_parameters: parameters whose gradients are partial sums over the tensor axis; see gradients.py.
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
    """Turn `model`, the same on every rank, into this rank's part of it, in place.

    Args:
        precision: float32, bfloat16 or bfloat16-pure; see fsdp.py.
        loss: (model, batch) -> loss, called by the stages of a pipeline.
        checkpointing: see activation_checkpointing.py.
        compiled: compile each block, and the loss.

    Gradients of ranks with different tokens are summed: weight each loss by its part of all tokens.

        mesh = build_mesh(LayoutConfig(shard=4, tensor=2), torch.device("cuda"))
        parallel = parallelize(build_model(config), mesh, precision="bfloat16")
        (model,) = parallel.model_parts
        (model(tokens, labels).loss / mesh.data_world_size).backward()
        all_reduce_partial_grads(parallel.partial_grad_parameters, mesh)

    Raises UserError for another precision, ValueError for another checkpointing mode or a pipeline without `loss`.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"precision {precision!r} on several devices: expected {', '.join(PRECISIONS)}",
            hint="set train.precision to one of these, or train on one device",
        )
    layout = mesh.layout
    if layout.pipeline > 1 and loss is None:
        raise ValueError("loss: expected a function for a pipeline, whose stages compute it")
    stages = split_pipeline(model, mesh, loss) if loss is not None and layout.pipeline > 1 else []
    model_parts = [stage.model for stage in stages] or [model]
    partial: set[str] = set()
    for part in model_parts:
        if layout.expert > 1:
            apply_expert_parallel(part, mesh)
        apply_global_load_balancing(part, mesh)
        if layout.tensor > 1:
            partial |= set(apply_tensor_parallel(part, mesh))
        if layout.context > 1:
            apply_context_parallel(part, mesh)
        apply_activation_checkpointing(part, checkpointing)
        # PyTorch cannot compile a checkpointed block that looks up a process group.
        compilable = compiled and not (checkpointing != "none" and layout.tensor > 1)
        for block in find_blocks(part) if compilable else ():
            block.compile()
        for head in find_heads(part):
            head.compiled = compiled
    for part in stages or model_parts:
        if mesh.size("replicate") * mesh.size("data") > 1:
            apply_fsdp(part, mesh, precision)
    named = [item for part in model_parts for item in part.named_parameters()]
    return ParallelModel(model_parts, stages, [parameter for name, parameter in named if name in partial])
