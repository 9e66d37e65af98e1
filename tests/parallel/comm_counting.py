"""Count the bytes that one training step sends, by process group."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from equivalence import Case, batch, build

from groundup.parallel.comm_counter import CommCounter
from groundup.plan.layout.communication import StepSpec, communication_bytes

AXES = ("replicate", "data", "context", "tensor", "pipeline")
CONTROL_BYTES = 20
"""Of control messages between all ranks in a step: number of labels, loss, norm."""


@dataclass(frozen=True)
class MeasuredBytes:
    """Bytes that one rank sends in a step: counted and by the formulas, by the ranks of the group."""

    counted: dict[tuple[int, ...], int]
    expected: dict[tuple[int, ...], float]


def count_step_bytes(case: Case) -> list[MeasuredBytes]:
    """The measured bytes of every rank."""
    engine, full = build(case), batch(case.model, 0)
    rows = len(full["tokens"]) // engine.data_world_size
    part = {name: x[engine.data_rank * rows : (engine.data_rank + 1) * rows] for name, x in full.items()}

    def step() -> None:
        engine.forward_backward(part)
        engine.optimizer_step(1.0)

    step()  # warm-up: one-time set-up is not counted
    measured = measure_step(
        engine,
        part,
        step,
        num_micro_batches=rows // min(rows, case.micro_batch_size or rows),
        compute_bytes=2 if case.settings.precision == "bfloat16" else 4,
        activation_checkpointing=dict(case.machine).get("activation_checkpointing", "none"),
    )
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, measured)
    return gathered


def measure_step(engine: Any, part: Any, step: Callable[[], None], **work: Any) -> MeasuredBytes:
    """The bytes that this rank sends in a step on `part` of a batch."""
    mesh, config = engine.mesh, engine.parallel_model.model_parts[0].config
    with CommCounter() as counter:
        step()
    sequences, length = part["tokens"].shape
    spec = StepSpec(sequences, length, pipeline_rank=mesh.rank("pipeline"), **work)
    ranks = tuple(range(dist.get_world_size()))
    expected: dict[tuple[int, ...], float] = {ranks: 2 * (len(ranks) - 1) / len(ranks) * CONTROL_BYTES}
    for axis, sent in communication_bytes(config, mesh.layout, spec).items():
        if sent:
            ranks = tuple(dist.get_process_group_ranks(mesh.group(axis)))
            expected[ranks] = expected.get(ranks, 0.0) + sent
    return MeasuredBytes({ranks: counter.sent_within(ranks) for ranks, _ in counter.sent_bytes}, expected)
