"""What ranks do in the tests of traffic: count what one step sends, by the axis that it goes along."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from sameness import Case, batch, build

from groundup.parallel.traffic import Traffic
from groundup.plan.traffic import Work, traffic

AXES = ("replicate", "data", "context", "tensor", "pipeline")
WORDS = 20
"""Bytes in which all ranks speak of the step: tokens predicted, the loss, the norm."""


@dataclass(frozen=True)
class Found:
    """Bytes of one rank's step: counted and by the formulas, by the ranks that they went among."""

    counted: dict[tuple[int, ...], int]
    expected: dict[tuple[int, ...], float]


def count(case: Case) -> list[Found]:
    """Of every rank."""
    engine, whole = build(case), batch(case.model, 0)
    rows = len(whole["tokens"]) // engine.data_ranks
    part = {name: x[engine.data_rank * rows : (engine.data_rank + 1) * rows] for name, x in whole.items()}

    def step() -> None:
        engine.accumulate(part)
        engine.update(1.0)

    step()  # what is made once is made
    mine = traffic_of(
        engine,
        part,
        step,
        micro_batches=rows // min(rows, case.micro_batch or rows),
        product=2 if case.settings.precision == "bfloat16" else 4,
        recompute=dict(case.machine).get("activation_checkpointing", "none"),
    )
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def traffic_of(engine: Any, part: Any, step: Callable[[], None], **work: Any) -> Found:
    """What this rank sends in a step on `part` of a batch."""
    mesh, config = engine.mesh, engine.parts.models[0].config
    with Traffic() as seen:
        step()
    sequences, length = part["tokens"].shape
    here = Work(sequences, length, place=mesh.rank("pipeline"), **work)
    ranks = tuple(range(dist.get_world_size()))
    expected: dict[tuple[int, ...], float] = {ranks: 2 * (len(ranks) - 1) / len(ranks) * WORDS}
    for axis, sent in traffic(config, mesh.layout, here).items():
        if sent:
            ranks = tuple(dist.get_process_group_ranks(mesh.group(axis)))
            expected[ranks] = expected.get(ranks, 0.0) + sent
    return Found({ranks: seen.among(ranks) for ranks, _ in seen.sent}, expected)
