"""What ranks do in the tests of traffic: count what one step sends, by the axis that it goes along."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from equivalence import Case, batch, build

from groundup.parallel.comm_counter import CommCounter
from groundup.plan.communication import StepSpec, communication_bytes

AXES = ("replicate", "data", "context", "tensor", "pipeline")
CONTROL_BYTES = 20
"""Bytes in which all ranks speak of the step: tokens predicted, the loss, the norm."""


@dataclass(frozen=True)
class MeasuredBytes:
    """Bytes of one rank's step: counted and by the formulas, by the ranks that they went among."""

    counted: dict[tuple[int, ...], int]
    expected: dict[tuple[int, ...], float]


def count_step_bytes(case: Case) -> list[MeasuredBytes]:
    """Of every rank."""
    engine, whole = build(case), batch(case.model, 0)
    rows = len(whole["tokens"]) // engine.data_world_size
    part = {name: x[engine.data_rank * rows : (engine.data_rank + 1) * rows] for name, x in whole.items()}

    def step() -> None:
        engine.forward_backward(part)
        engine.optimizer_step(1.0)

    step()  # what is made once is made
    mine = measure_step(
        engine,
        part,
        step,
        num_micro_batches=rows // min(rows, case.micro_batch_size or rows),
        compute_bytes=2 if case.settings.precision == "bfloat16" else 4,
        activation_checkpointing=dict(case.machine).get("activation_checkpointing", "none"),
    )
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def measure_step(engine: Any, part: Any, step: Callable[[], None], **work: Any) -> MeasuredBytes:
    """What this rank sends in a step on `part` of a batch."""
    mesh, config = engine.mesh, engine.parallel_model.model_parts[0].config
    with CommCounter() as seen:
        step()
    sequences, length = part["tokens"].shape
    here = StepSpec(sequences, length, pipeline_rank=mesh.rank("pipeline"), **work)
    ranks = tuple(range(dist.get_world_size()))
    expected: dict[tuple[int, ...], float] = {ranks: 2 * (len(ranks) - 1) / len(ranks) * CONTROL_BYTES}
    for axis, sent in communication_bytes(config, mesh.layout, here).items():
        if sent:
            ranks = tuple(dist.get_process_group_ranks(mesh.group(axis)))
            expected[ranks] = expected.get(ranks, 0.0) + sent
    return MeasuredBytes({ranks: seen.sent_within(ranks) for ranks, _ in seen.sent_bytes}, expected)
