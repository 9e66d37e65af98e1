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
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from groundup.model.decoder import Decoder
from groundup.model.embedding import Absent
from groundup.model.moe import balancing_loss
from groundup.model.output import Output, next_labels
from groundup.parallel.mesh import Mesh
from groundup.parallel.parts import Elsewhere
from groundup.plan.layout import num_stages, pieces_of
from groundup.recipe.layout import Layout

ONE_PIECE = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
"""Schedules with one piece on each device."""

AROUND = {
    "interleaved-1f1b": ScheduleInterleaved1F1B,
    "interleaved-zero-bubble": ScheduleInterleavedZeroBubble,
}
"""Schedules with pieces 0, n, 2n, ... of n devices on the first one, and so on."""

THERE_AND_BACK = {"zero-bubble-v": ScheduleZBVZeroBubble, "dualpipe-v": ScheduleDualPipeV}
"""Schedules with the first and the last of 2n pieces on the first one, and so on."""


class Inlet(Elsewhere):
    """In place of the embedding: what the piece before this one has sent."""

    received: Tensor | None = None

    def forward(self, *_: Any) -> Tensor:
        assert self.received is not None
        return self.received


class Outlet(Elsewhere):
    """In place of the head: hands on the hidden states.

    What a mixture of experts adds to the loss cannot travel with them. It is put into the graph here, as a term whose
    gradient is the weight of the micro-batch (Megatron-LM's MoEAuxLossAutoScaler).
    """

    share: Tensor | float = 1.0

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is a reference and not a submodule
        self.added = torch.zeros(())

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden

    def loss(self, hidden: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
        extra = balancing_loss(self._model[0])
        if not isinstance(extra, Tensor):
            return hidden
        self.added = self.added.to(extra.device) + (extra * self.share).detach().sum()
        return _Carry.apply(hidden, extra * self.share)  # type: ignore[return-value]


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, extra: Tensor) -> Tensor:
        ctx.save_for_backward(extra)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, torch.ones_like(ctx.saved_tensors[0])


class Piece(nn.Module):
    """One stage: some blocks of the model, with an end of it or none."""

    def __init__(self, model: nn.Module, index: int, count: int, loss: Callable[..., Tensor]):
        super().__init__()
        self.model, self.index, self.count, self.loss = model, index, count, loss

    def forward(self, received: Tensor | None = None, *, share: Tensor, **batch: Tensor) -> Tensor:
        """Hidden states (B T D) for the next piece; from the last one, the weighted loss (1)."""
        self.receive(received)
        if self.index < self.count - 1:
            self.model.head.share = share  # type: ignore[union-attr]
            return self.loss(self.model, batch)
        return self.loss(self.model, batch) * share

    def look(self, call: Callable[[Any], Tensor]) -> Tensor:
        """What `call` says of the model: for passes that are no step of a schedule."""
        return call(self.model)

    def take_added(self) -> Tensor:
        """What blocks of this piece have added to the loss since the last call, as a number."""
        head = self.model.head
        if not isinstance(head, Outlet):
            return torch.zeros(())
        added, head.added = head.added, torch.zeros(())
        return added

    def receive(self, hidden: Tensor | None) -> None:
        if self.index > 0:
            self.model.embedding.received = hidden  # type: ignore[union-attr]


def cut_pipeline(model: nn.Module, mesh: Mesh, loss: Callable[..., Tensor]) -> list[Piece]:
    """The pieces of this rank, which share the weights of `model`."""
    count = num_stages(mesh.layout)
    places = pieces_of(mesh.rank("pipeline"), mesh.layout)
    return [Piece(_keep(model, index, count), index, count, loss) for index in places]


def device_of(piece: int, layout: Layout) -> int:
    return next(rank for rank in range(layout.pipeline) if piece in pieces_of(rank, layout))


def _keep(model: Any, index: int, count: int) -> Any:
    """The model with nothing but the blocks of one piece, and the end that it stands at."""
    piece = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    blocks = range(len(model.blocks))
    own = blocks[index * len(blocks) // count : (index + 1) * len(blocks) // count]
    for number in blocks:
        if number not in own:
            piece.blocks[number] = Absent()
    if index > 0:
        piece.embedding = Inlet()
    if index < count - 1:
        piece.final_norm, piece.head = Elsewhere(), Outlet(piece)
    return piece


def build_schedule(pieces: list[Piece], mesh: Mesh, micro_batches: int, shape: tuple[int, ...]) -> Any:
    """The schedule of one step.

    Args:
        micro_batches: how many a step has.
        shape: of the hidden states that travel, (B T D) with the B of a micro-batch and the T of a rank.
    """
    layout, device = mesh.layout, mesh.device
    # In the dtype of the weights, as the stream is: a receiver that expects another would read the bytes as such.
    dtype = next(pieces[0].parameters()).dtype
    hidden = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
    loss = torch.empty(1, device="meta", requires_grad=True)
    stages = [
        PipelineStage(
            piece,
            piece.index,
            piece.count,
            device,
            input_args=() if piece.index == 0 else hidden,
            output_args=hidden if piece.index < piece.count - 1 else loss,
            group=mesh.group("pipeline"),
        )
        for piece in pieces
    ]
    options: dict[str, Any] = {"loss_fn": lambda output, _: output.sum(), "scale_grads": False}
    if layout.schedule in ONE_PIECE:
        return ONE_PIECE[layout.schedule](stages[0], micro_batches, **options)
    return (AROUND | THERE_AND_BACK)[layout.schedule](stages, micro_batches, **options)  # type: ignore[arg-type]


class Chain:
    """While it is entered, the first piece here answers like the whole model, in evaluation.

    All ranks call it together: each piece runs where it is, and its result goes to all.
    """

    def __init__(self, pieces: list[Piece], mesh: Mesh):
        self.pieces, self.mesh = {piece.index: piece for piece in pieces}, mesh
        self.front: Any = pieces[0].model
        self.count = pieces[0].count

    def __enter__(self) -> None:
        self.front.hidden_states, self.front.logits = self.hidden_states, self.logits
        self.front.forward = self.forward
        for piece in self.pieces.values():
            register_fsdp_forward_method(piece, "look")  # which gathers the weights of its ends

    def __exit__(self, *_: object) -> None:
        for name in ("hidden_states", "logits", "forward"):
            del self.front.__dict__[name]
        for piece in self.pieces.values():
            piece.__dict__.pop("look", None)

    def hidden_states(self, tokens: Tensor, **inputs: Any) -> Tensor:
        shape = (*tokens.shape, self.front.config.hidden_size)
        hidden = torch.empty(shape, device=self.mesh.device)
        for index in range(self.count):
            if piece := self.pieces.get(index):
                piece.receive(hidden)
                hidden = piece.look(lambda model: type(model).hidden_states(model, tokens, **inputs))
            hidden = self._from(index, hidden.float())
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        scores = torch.empty((*hidden.shape[:-1], self.front.config.vocab_size), device=self.mesh.device)
        if last := self.pieces.get(self.count - 1):
            scores = last.look(lambda model: model.head(hidden))
        return self._from(self.count - 1, scores.float())

    def forward(self, tokens: Tensor, labels: Tensor | None = None, **inputs: Any) -> Output:
        z_loss = inputs.pop("z_loss", 0.0)
        hidden = self.hidden_states(tokens, **inputs)
        if labels is None:
            return Output(self.logits(hidden), None)
        loss = torch.zeros((), device=self.mesh.device)
        if last := self.pieces.get(self.count - 1):
            targets = next_labels(labels) if isinstance(last.model, Decoder) else labels
            loss = last.look(lambda model: model.head.loss(hidden, targets, z_loss))
        return Output(None, self._from(self.count - 1, loss.float()))

    def _from(self, index: int, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.broadcast(x, group=self.mesh.group("pipeline"), group_src=device_of(index, self.mesh.layout))
        return x
