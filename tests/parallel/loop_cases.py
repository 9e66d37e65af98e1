"""Training loops that ranks run in test_training_loop_ranks.py: without interruption, and stopped at several steps."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from equivalence import batch, build_toy_model, settings
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.parallel import LayoutConfig
from groundup.parallel.communicator import hash_tensors
from groundup.parallel.module_surgery import local_tensor
from groundup.train import Objective, checkpoints, run_training_loop, training_loop
from groundup.train.engines.parallel_engine import ParallelEngine
from groundup.train.objectives import count_shifted
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS


@dataclass(frozen=True)
class LoopCase:
    """A run in `folder`.

    Attributes:
        stops: steps whose batch stops an attempt, one after the other.
        factors: of the loss, by batch.
        scores: first value of the evaluation, by step; on other ranks than the main one another value.
        every_step: a checkpoint after every step, otherwise only at evaluations.
        damaged: before the last attempt, one bit of the last rank's file of the newest checkpoint is changed.
        stale: ranks other than the main one do not see the checkpoints of the folder.
    """

    folder: Path
    layout: dict[str, Any]
    train: dict[str, Any]
    stops: tuple[int, ...]
    factors: dict[int, float]
    scores: dict[int, float]
    every_step: bool = True
    stale: bool = False
    damaged: bool = False


class Stopped(Exception):
    """In place of a kill."""


class _Batches:
    def __init__(self, case: LoopCase, engine: Any, stop: int | None):
        self.case, self.engine, self.stop = case, engine, stop

    def batch(self, step: int) -> dict[str, Tensor]:
        if step == self.stop:
            raise Stopped
        rows = 16 // self.engine.data_world_size
        part = {key: value[self.engine.data_rank * rows :][:rows] for key, value in batch("llama", step).items()}
        return part | {"factor": torch.full((rows, 1), self.case.factors.get(step, 1.0))}


def straight_and_stopped(case: LoopCase) -> tuple[Any, Any]:
    """Outcome of the run in one piece, and of the run that was stopped; each the same on all ranks."""
    training_loop.MAX_CONSECUTIVE_SKIPS = 4
    straight = _attempt(case, "straight", None)
    for stop in case.stops:
        assert _attempt(case, "stopped", stop) == "stopped"
    if case.stale and dist.get_rank():
        checkpoints.list_checkpoints = lambda folder: []
    if case.damaged and dist.get_rank() == 0:
        newest = checkpoints.list_checkpoints(case.folder / "stopped" / "checkpoints")[-1]
        path = max(newest.glob("rank-*.safetensors"))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    dist.barrier()
    return straight, _attempt(case, "stopped", None)


def _attempt(case: LoopCase, name: str, stop: int | None) -> Any:
    train = settings(**case.train)
    model = build_toy_model("llama")
    scaled = Objective(lambda m, b: m(b["tokens"], b["labels"]).loss * b["factor"].mean(), count_shifted)
    machine = Machine(micro_batch_size=16, checkpoint_every_seconds=0.0 if case.every_step else math.inf)
    engine = ParallelEngine(model, scaled, train, machine, LayoutConfig(**case.layout))
    tokens = batch("llama", 0)["tokens"]

    def evaluate(whole: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            loss = float(whole(tokens, tokens).loss)  # collective
        step = next(iter(engine.optimizers[0].state.values()))["step"]
        return {"score": case.scores.get(int(step), 0.0) if engine.is_main else float(step), "loss": loss}

    try:
        batches = _Batches(case, engine, stop)
        result = run_training_loop(engine, batches, train, case.folder / name, machine, eval_fn=evaluate)
    except Stopped:
        return "stopped"
    except UserError as error:
        outcome: Any = str(error).split(";")[0]
        lengths = 0
    else:
        weights = hash_tensors(local_tensor(weight) for weight in engine.parameters)
        records = [{k: v for k, v in r.items() if k not in NON_REPRODUCIBLE_FIELDS} for r in result.records]
        outcome, lengths = (records, result.evaluations, weights), len(result.records)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, outcome if isinstance(outcome, str) else lengths)
    assert len(set(everyone)) == 1, everyone
    return outcome
