"""Pipeline parallelism: split a model into stages of consecutive blocks, and run micro-batches through them.

A stage is a copy of the model without the other stages' modules: it receives hidden states in place of the embedding,
sends them in place of the head, and passes through missing blocks. So every stage runs the model's own forward pass,
and its parameters have the names of the full model.

The schedules are PyTorch's. GPipe (Huang et al. 2019) runs all forward passes, then all backward passes; 1F1B (Narayanan
et al. 2019) starts each backward pass as soon as it can; interleaving gives every device several smaller stages
(Narayanan et al. 2021). Zero-bubble schedules (Qi et al. 2023) and DualPipe (DeepSeek-V3, as a V) delay the gradients of
weights, which no other stage waits for.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.pipelining import PipelineStage, schedules

from groundup.model.decoder import Decoder
from groundup.model.embedding import PassThrough
from groundup.model.head import ModelOutput, shift_labels
from groundup.model.moe import pop_aux_loss, set_aux_loss_weight
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import restore, specialize
from groundup.plan.layout.pipeline_schedule import SCHEDULES, num_stages, stage_indices
from groundup.recipe.layout_config import LayoutConfig


class StageInput(PassThrough):
    """In place of the embedding: the hidden states of the previous stage."""

    received: Tensor | None = None

    def forward(self, *_: Any) -> Tensor:
        assert self.received is not None
        return self.received


class StageOutput(PassThrough):
    """In place of the head: passes on the hidden states.

    The auxiliary loss of a mixture of experts cannot travel with them. It is added to the graph here, as a term whose
    gradient is its weight (Megatron-LM's MoEAuxLossAutoScaler).
    """

    loss_weight: Tensor | float = 1.0

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is a reference and not a submodule
        self.aux_loss = torch.zeros(())

    def loss(self, hidden: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
        aux_loss = pop_aux_loss(self._model[0])
        if not isinstance(aux_loss, Tensor):
            return hidden
        weighted = aux_loss * self.loss_weight
        self.aux_loss = self.aux_loss.to(weighted.device) + weighted.detach().sum()
        return _AddAuxLoss.apply(hidden, weighted)  # type: ignore[return-value]


class _AddAuxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, aux_loss: Tensor) -> Tensor:
        ctx.save_for_backward(aux_loss)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, torch.ones_like(ctx.saved_tensors[0])


class StageModule(nn.Module):
    """One stage: some blocks of the model; the first with its embedding, the last with its head."""

    def __init__(self, model: nn.Module, index: int, num_stages: int, loss: Callable[..., Tensor]):
        super().__init__()
        self.model, self.index, self.num_stages, self.loss = model, index, num_stages, loss

    def forward(
        self, received: Tensor | None = None, *, loss_weight: Tensor, aux_loss_weight: Tensor, **batch: Tensor
    ) -> Tensor:
        """Hidden states (B T D) for the next stage; from the last one, the weighted loss (1)."""
        self.set_received(received)
        if self.index < self.num_stages - 1:
            self.model.head.loss_weight = aux_loss_weight  # type: ignore[union-attr]
            return self.loss(self.model, batch)
        set_aux_loss_weight(self.model, aux_loss_weight / loss_weight)
        return self.loss(self.model, batch) * loss_weight

    def call_model(self, function: Callable[[Any], Tensor]) -> Tensor:
        """`function(model)`, outside a schedule."""
        return function(self.model)

    def take_aux_loss(self) -> Tensor:
        """The weighted auxiliary loss of this stage's blocks since the last call, without a graph."""
        head = self.model.head
        if not isinstance(head, StageOutput):
            return torch.zeros(())
        aux_loss, head.aux_loss = head.aux_loss, torch.zeros(())
        return aux_loss

    def set_received(self, hidden: Tensor | None) -> None:
        if self.index > 0:
            self.model.embedding.received = hidden  # type: ignore[union-attr]


def split_pipeline(model: nn.Module, mesh: Mesh, loss: Callable[..., Tensor]) -> list[StageModule]:
    """The stages of this rank, which share the weights of `model`."""
    count = num_stages(mesh.layout)
    indices = stage_indices(mesh.rank("pipeline"), mesh.layout)
    return [StageModule(_extract_stage(model, index, count), index, count, loss) for index in indices]


def stage_rank(stage: int, layout: LayoutConfig) -> int:
    return next(rank for rank in range(layout.pipeline) if stage in stage_indices(rank, layout))


def _extract_stage(model: Any, index: int, count: int) -> Any:
    stage = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    blocks = len(model.blocks)
    local = range(index * blocks // count, (index + 1) * blocks // count)
    for block in range(blocks):
        if block not in local:
            stage.blocks[block] = PassThrough()
    if index > 0:
        stage.embedding = StageInput()
    if index < count - 1:
        stage.final_norm, stage.head = PassThrough(), StageOutput(stage)
    return stage


def build_schedule(stages: list[StageModule], mesh: Mesh, num_micro_batches: int, shape: tuple[int, ...]) -> Any:
    """PyTorch's schedule of one step.

    Args:
        shape: of the hidden states between stages, (B T D) with the B of a micro-batch and the T of a rank.

    Raises ValueError for a number of micro-batches that the schedule cannot do.
    """
    layout, device = mesh.layout, mesh.device
    # The dtype of the weights is that of hidden states: a receiver with another dtype would misread the bytes.
    dtype = next(stages[0].parameters()).dtype
    hidden = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
    loss = torch.empty(1, device="meta", requires_grad=True)
    pipeline_stages = [
        PipelineStage(
            stage,
            stage.index,
            stage.num_stages,
            device,
            input_args=() if stage.index == 0 else hidden,
            output_args=hidden if stage.index < stage.num_stages - 1 else loss,
            group=mesh.group("pipeline"),
        )
        for stage in stages
    ]
    options: dict[str, Any] = {"loss_fn": lambda output, _: output.sum(), "scale_grads": False}
    spec = SCHEDULES[layout.pipeline_schedule]
    schedule = getattr(schedules, spec.torch_class)
    return schedule(
        pipeline_stages[0] if spec.stages_per_device == 1 else pipeline_stages, num_micro_batches, **options
    )


class PipelineEvaluator:
    """While it is entered, the model of this rank's first stage answers like the full model, for evaluation.

    Collective: each stage runs on its rank, and its result is broadcast.
    """

    def __init__(self, stages: list[StageModule], mesh: Mesh):
        self.stages, self.mesh = {stage.index: stage for stage in stages}, mesh
        self.first_model: Any = stages[0].model
        self.model_class = type(self.first_model)
        self.num_stages = stages[0].num_stages

    def __enter__(self) -> None:
        specialize(self.first_model, _PipelinedModel, evaluator=self)
        for stage in self.stages.values():
            register_fsdp_forward_method(stage, "call_model")  # which gathers weights outside of blocks

    def __exit__(self, *_: object) -> None:
        restore(self.first_model)
        for stage in self.stages.values():
            vars(stage).pop("call_model", None)

    def hidden_states(self, tokens: Tensor, **inputs: Any) -> Tensor:
        shape = (*tokens.shape, self.first_model.config.hidden_size)
        hidden = torch.empty(shape, device=self.mesh.device)
        for index in range(self.num_stages):
            if stage := self.stages.get(index):
                stage.set_received(hidden)
                hidden = stage.call_model(lambda model: self.model_class.hidden_states(model, tokens, **inputs))
            hidden = self._broadcast_from(index, hidden.float())
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        shape = (*hidden.shape[:-1], self.first_model.config.vocab_size)
        logits = torch.empty(shape, device=self.mesh.device)
        if last := self.stages.get(self.num_stages - 1):
            logits = last.call_model(lambda model: model.head(hidden))
        return self._broadcast_from(self.num_stages - 1, logits.float())

    def loss(self, hidden: Tensor, labels: Tensor, z_loss: float) -> Tensor:
        loss = torch.zeros((), device=self.mesh.device)
        if last := self.stages.get(self.num_stages - 1):
            targets = shift_labels(labels) if isinstance(last.model, Decoder) else labels
            loss = last.call_model(lambda model: model.head.loss(hidden, targets, z_loss))
        return self._broadcast_from(self.num_stages - 1, loss.float())

    def _broadcast_from(self, index: int, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.broadcast(x, group=self.mesh.group("pipeline"), group_src=stage_rank(index, self.mesh.layout))
        return x


class _PipelinedModel(nn.Module):
    evaluator: PipelineEvaluator

    def hidden_states(self, tokens: Tensor, **inputs: Any) -> Tensor:
        return self.evaluator.hidden_states(tokens, **inputs)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.evaluator.logits(hidden)

    def forward(
        self, tokens: Tensor, labels: Tensor | None = None, *, z_loss: float = 0.0, **inputs: Any
    ) -> ModelOutput:
        hidden = self.hidden_states(tokens, **inputs)
        if labels is None:
            return ModelOutput(self.logits(hidden), None)
        return ModelOutput(None, self.evaluator.loss(hidden, labels, z_loss))
