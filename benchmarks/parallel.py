"""Training throughput and communication of each layout, with gloo ranks on this machine, compared with PyTorch's DDP.

    python benchmarks/parallel.py [--out FILE] [--steps N]

Every layout trains the same model on the same batch. The bytes counted at the collectives (parallel/comm_counter.py) must equal
the formulas (plan/layout/communication.py), or the script fails. Steps a second on one machine show the processor time of a
layout, not that of a network. The peer is DistributedDataParallel around the same model, with the loop of its tutorial.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parallel"))
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")

MODEL = {
    "vocab_size": 2048, "hidden_size": 256, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 704,
    "context_length": 256, "tie_embeddings": False,
}  # fmt: skip
SEQUENCES, LENGTH = 8, 256

LAYOUTS: dict[str, tuple[int, dict[str, Any], int | None]] = {
    "DDP": (2, {"replicate": 2}, None),
    "FSDP": (2, {"shard": 2}, None),
    "TP": (2, {"tensor": 2, "sequence_parallel": False}, None),
    "TP+SP": (2, {"tensor": 2}, None),
    "CP all-gather": (2, {"context": 2}, None),
    "CP ulysses": (2, {"context": 2, "context_method": "ulysses"}, None),
    "CP ring": (2, {"context": 2, "context_method": "ring"}, None),
    "PP 1f1b": (2, {"pipeline": 2}, 2),
    "DDP, 4": (4, {"replicate": 4}, None),
    "FSDP, 4": (4, {"shard": 4}, None),
    "hybrid": (4, {"replicate": 2, "shard": 2}, None),
    "FSDP x TP+SP": (4, {"shard": 2, "tensor": 2}, None),
    "CP ring, 4": (4, {"context": 4, "context_method": "ring"}, None),
    "PP 1f1b x FSDP": (4, {"pipeline": 2, "shard": 2}, 1),
}
"""Name -> ranks, layout, micro-batch."""


def measure_groundup(job: tuple[dict[str, Any], int | None, int]) -> tuple[float, int, float]:
    """Seconds of a step, and the bytes of the rank that sends most: counted, and by the formulas."""
    import torch
    import torch.distributed as dist
    from comm_counting import measure_step
    from equivalence import settings

    from groundup.artifacts.machine import Machine
    from groundup.model import build_model
    from groundup.recipe import ModelConfig
    from groundup.recipe.layout_config import LayoutConfig
    from groundup.train.engines.parallel_engine import ParallelEngine
    from groundup.train.objectives import NEXT_TOKEN, next_token_batch

    layout, micro_batch, steps = job
    torch.manual_seed(0)
    model = build_model(ModelConfig(**MODEL))
    machine = Machine(micro_batch_size=micro_batch or SEQUENCES)
    engine = ParallelEngine(model, NEXT_TOKEN, settings(), machine, LayoutConfig(**layout))
    tokens = torch.randint(MODEL["vocab_size"], (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    rows = SEQUENCES // engine.data_world_size
    batch = next_token_batch(tokens[engine.data_rank * rows : (engine.data_rank + 1) * rows])

    def step() -> None:
        engine.forward_backward(batch)
        engine.optimizer_step(1.0)

    step()
    seconds = _time(step, steps)
    found = measure_step(engine, batch, step, num_micro_batches=rows // min(rows, micro_batch or rows), compute_bytes=4)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, found)
    for rank, one in enumerate(gathered):
        assert one.counted.keys() == one.expected.keys(), f"{layout}: rank {rank}"
        for ranks, expected in one.expected.items():
            assert abs(one.counted[ranks] - expected) < 8, f"{layout}: rank {rank} among {ranks}: {one}"
    busiest = max(gathered, key=lambda one: sum(one.counted.values()))
    return seconds, sum(busiest.counted.values()), sum(busiest.expected.values())


def measure_ddp(job: tuple[dict[str, Any], int | None, int]) -> tuple[float, int, float]:
    """The same model under PyTorch's DistributedDataParallel."""
    import torch
    import torch.distributed as dist
    from equivalence import settings

    from groundup.model import build_model
    from groundup.recipe import ModelConfig
    from groundup.train.objectives import next_token_batch

    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(build_model(ModelConfig(**MODEL)))
    options = settings()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(options.beta1, options.beta2), fused=True)
    tokens = torch.randint(MODEL["vocab_size"], (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    rows = SEQUENCES // dist.get_world_size()
    batch = next_token_batch(tokens[dist.get_rank() * rows : (dist.get_rank() + 1) * rows])

    def step() -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    size, weights = dist.get_world_size(), sum(p.numel() for p in model.parameters())
    sent = round(2 * (size - 1) / size * 4 * weights)
    return _time(step, job[2]), sent, float(sent)


def _time(step: Any, steps: int) -> float:
    """The median seconds of a step; every step starts at a barrier."""
    import torch.distributed as dist

    seconds = []
    for _ in range(steps):
        dist.barrier()
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--steps", type=int, default=12)
    chosen = arguments.parse_args()
    import gloo_ranks

    lines = [
        "| layout | ranks | steps/s | of torch DDP | sent a step and rank | by the formulas |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    peers: dict[int, float] = {}
    for name, (ranks, layout, micro_batch) in LAYOUTS.items():
        if ranks not in peers:
            seconds, sent, _ = gloo_ranks.run_ranks(ranks, measure_ddp, (layout, micro_batch, chosen.steps))
            peers[ranks] = seconds
            lines.append(f"| torch DDP | {ranks} | {1 / seconds:.2f} | 1.00 | {sent / 1e6:.2f} MB (not counted) | |")
            print(lines[-1], flush=True)
        seconds, sent, expected = gloo_ranks.run_ranks(ranks, measure_groundup, (layout, micro_batch, chosen.steps))
        lines.append(
            f"| {name} | {ranks} | {1 / seconds:.2f} | {peers[ranks] / seconds:.2f} | {sent / 1e6:.3f} MB | "
            f"{expected / 1e6:.3f} MB |"
        )
        print(lines[-1], flush=True)
    if chosen.out is not None:
        chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
