"""What ranks do in the tests of traffic: count what one step sends, by the axis that it goes along."""

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
    engine = build(case)
    mesh, whole = engine.mesh, batch(case.model, 0)
    rows = len(whole["tokens"]) // engine.data_ranks
    part = {name: x[engine.data_rank * rows : (engine.data_rank + 1) * rows] for name, x in whole.items()}
    engine.accumulate(part)
    engine.update(1.0)  # what is made once is made
    with Traffic() as seen:
        engine.accumulate(part)
        engine.update(1.0)
    config: Any = engine.parts.models[0].config
    work = Work(
        sequences=rows,
        length=part["tokens"].shape[1],
        micro_batches=rows // min(rows, case.micro_batch or rows),
        product=2 if case.settings.precision == "bfloat16" else 4,
        recompute=dict(case.machine).get("activation_checkpointing") == "full",
        place=mesh.rank("pipeline"),
    )
    expected: dict[tuple[int, ...], float] = {}
    everyone = tuple(range(dist.get_world_size()))
    expected[everyone] = 2 * (len(everyone) - 1) / len(everyone) * WORDS
    for axis, sent in traffic(config, mesh.layout, work).items():
        if sent:
            ranks = tuple(dist.get_process_group_ranks(mesh.group(axis)))
            expected[ranks] = expected.get(ranks, 0.0) + sent
    mine = Found({ranks: seen.among(ranks) for ranks, _ in seen.sent}, expected)
    all_found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_found, mine)
    return all_found
