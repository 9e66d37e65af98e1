"""Pipeline parallelism: the blocks stand on the devices of the pipeline axis, and micro-batches run through them.

A piece is the whole model with other modules in the place of what is elsewhere: an inlet for the embedding, an outlet
for the head, nothing for blocks. So every piece runs the model's own forward pass, and has the names of the whole.

The schedules are PyTorch's. In GPipe (Huang et al. 2019) all micro-batches go forward, then back; 1F1B (Narayanan et
al. 2019) turns each back as soon as it can, and interleaving gives every device several thinner pieces (Narayanan et
al. 2021). Zero-bubble schedules (Qi et al. 2023) and DualPipe (DeepSeek-V3, as a V) put off the gradients of weights,
which nobody waits for.
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
from groundup.model.model_output import ModelOutput, shift_labels
from groundup.model.moe import pop_aux_loss
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import StagePassThrough
from groundup.plan.pipeline_schedule import SCHEDULES, num_stages, stage_indices
from groundup.recipe.layout_config import LayoutConfig


class StageInput(StagePassThrough):
    """In place of the embedding: what the piece before this one has sent."""

    received: Tensor | None = None

    def forward(self, *_: Any) -> Tensor:
        assert self.received is not None
        return self.received


class StageOutput(StagePassThrough):
    """In place of the head: hands on the hidden states.

    What a mixture of experts adds to the loss cannot travel with them. It is put into the graph here, as a term whose
    gradient is the weight of the micro-batch (Megatron-LM's MoEAuxLossAutoScaler).
    """

    loss_weight: Tensor | float = 1.0

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is a reference and not a submodule
        self.aux_loss = torch.zeros(())

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden

    def loss(self, hidden: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
        extra = pop_aux_loss(self._model[0])
        if not isinstance(extra, Tensor):
            return hidden
        self.aux_loss = self.aux_loss.to(extra.device) + (extra * self.loss_weight).detach().sum()
        return _AddAuxLoss.apply(hidden, extra * self.loss_weight)  # type: ignore[return-value]


class _AddAuxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, extra: Tensor) -> Tensor:
        ctx.save_for_backward(extra)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, torch.ones_like(ctx.saved_tensors[0])


class StageModule(nn.Module):
    """One stage: some blocks of the model, with an end of it or none."""

    def __init__(self, model: nn.Module, index: int, count: int, loss: Callable[..., Tensor]):
        super().__init__()
        self.model, self.index, self.num_stages, self.loss = model, index, count, loss

    def forward(self, received: Tensor | None = None, *, loss_weight: Tensor, **batch: Tensor) -> Tensor:
        """Hidden states (B T D) for the next piece; from the last one, the weighted loss (1)."""
        self.set_received(received)
        if self.index < self.num_stages - 1:
            self.model.head.loss_weight = loss_weight  # type: ignore[union-attr]
            return self.loss(self.model, batch)
        return self.loss(self.model, batch) * loss_weight

    def call_model(self, call: Callable[[Any], Tensor]) -> Tensor:
        """What `call` says of the model: for passes that are no step of a schedule."""
        return call(self.model)

    def take_aux_loss(self) -> Tensor:
        """What blocks of this piece have added to the loss since the last call, as a number."""
        head = self.model.head
        if not isinstance(head, StageOutput):
            return torch.zeros(())
        added, head.aux_loss = head.aux_loss, torch.zeros(())
        return added

    def set_received(self, hidden: Tensor | None) -> None:
        if self.index > 0:
            self.model.embedding.received = hidden  # type: ignore[union-attr]


def split_pipeline(model: nn.Module, mesh: Mesh, loss: Callable[..., Tensor]) -> list[StageModule]:
    """The pieces of this rank, which share the weights of `model`."""
    count = num_stages(mesh.layout)
    places = stage_indices(mesh.rank("pipeline"), mesh.layout)
    return [StageModule(_extract_stage(model, index, count), index, count, loss) for index in places]


def stage_rank(stage: int, layout: LayoutConfig) -> int:
    return next(rank for rank in range(layout.pipeline) if stage in stage_indices(rank, layout))


def _extract_stage(model: Any, index: int, count: int) -> Any:
    """The model with nothing but the blocks of one piece, and the end that it stands at."""
    piece = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    blocks = range(len(model.blocks))
    own = blocks[index * len(blocks) // count : (index + 1) * len(blocks) // count]
    for number in blocks:
        if number not in own:
            piece.blocks[number] = PassThrough()
    if index > 0:
        piece.embedding = StageInput()
    if index < count - 1:
        piece.final_norm, piece.head = StagePassThrough(), StageOutput(piece)
    return piece


def build_schedule(
    stages: list[StageModule], mesh: Mesh, num_micro_batches: int, shape: tuple[int, ...]
) -> Any:
    """The schedule of one step.

    Args:
        micro_batches: how many a step has.
        shape: of the hidden states that travel, (B T D) with the B of a micro-batch and the T of a rank.
    """
    layout, device = mesh.layout, mesh.device
    # In the dtype of the weights, as the stream is: a receiver that expects another would read the bytes as such.
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
    """While it is entered, the first piece here answers like the whole model, in evaluation.

    All ranks call it together: each piece runs where it is, and its result goes to all.
    """

    def __init__(self, pieces: list[StageModule], mesh: Mesh):
        self.stages, self.mesh = {piece.index: piece for piece in pieces}, mesh
        self.first_model: Any = pieces[0].model
        self.num_stages = pieces[0].num_stages

    def __enter__(self) -> None:
        self.first_model.hidden_states, self.first_model.logits = self.hidden_states, self.logits
        self.first_model.forward = self.forward
        for piece in self.stages.values():
            register_fsdp_forward_method(piece, "call_model")  # which gathers the weights of its ends

    def __exit__(self, *_: object) -> None:
        for name in ("hidden_states", "logits", "forward"):
            del self.first_model.__dict__[name]
        for piece in self.stages.values():
            piece.__dict__.pop("call_model", None)

    def hidden_states(self, tokens: Tensor, **inputs: Any) -> Tensor:
        shape = (*tokens.shape, self.first_model.config.hidden_size)
        hidden = torch.empty(shape, device=self.mesh.device)
        for index in range(self.num_stages):
            if piece := self.stages.get(index):
                piece.set_received(hidden)
                hidden = piece.call_model(lambda model: type(model).hidden_states(model, tokens, **inputs))
            hidden = self._broadcast_from(index, hidden.float())
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        scores = torch.empty(
            (*hidden.shape[:-1], self.first_model.config.vocab_size), device=self.mesh.device
        )
        if last := self.stages.get(self.num_stages - 1):
            scores = last.call_model(lambda model: model.head(hidden))
        return self._broadcast_from(self.num_stages - 1, scores.float())

    def forward(self, tokens: Tensor, labels: Tensor | None = None, **inputs: Any) -> ModelOutput:
        z_loss = inputs.pop("z_loss", 0.0)
        hidden = self.hidden_states(tokens, **inputs)
        if labels is None:
            return ModelOutput(self.logits(hidden), None)
        loss = torch.zeros((), device=self.mesh.device)
        if last := self.stages.get(self.num_stages - 1):
            targets = shift_labels(labels) if isinstance(last.model, Decoder) else labels
            loss = last.call_model(lambda model: model.head.loss(hidden, targets, z_loss))
        return ModelOutput(None, self._broadcast_from(self.num_stages - 1, loss.float()))

    def _broadcast_from(self, index: int, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.broadcast(x, group=self.mesh.group("pipeline"), group_src=stage_rank(index, self.mesh.layout))
        return x
