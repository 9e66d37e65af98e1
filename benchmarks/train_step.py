"""A training step, beside other training loops: tokens/s, memory, fraction of the matmul peak.

    python benchmarks/train_step.py --shape 30m --litgpt-python /path/to/python
    python benchmarks/train_step.py --shape 30m --vocab 32000 --compiled
    python benchmarks/train_step.py --shape 124m --batch 4 --length 512 --steps 3
    python benchmarks/train_step.py --shape 30m --loop          # overhead of the training loop

Ours is the engine of `groundup run`, with the micro-batch size that it chooses. The peers are the models of transformers,
litgpt and a GPT like nanoGPT in nanoGPT's loop: bfloat16 autocast over float32 weights, gradient clipping, fused AdamW
with decay of matrices only. Each runs with the batch in one pass and in passes of 2,048 tokens, as ours; the better result
counts. Every contestant has a process of its own, in alternating rounds; the best step counts. With other load, compare
CPU seconds. Memory is the peak since before the model was built: weights, gradients, moments and activations.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from model_forward_backward import SHAPES, flops, groundup, is_missing, litgpt, matmul_peak, peak_bytes, transformers
from torch import Tensor, nn

PASS_TOKENS = 2_048
"""Tokens in one forward pass of ours on a CPU, and of the peers' second variant."""
PEERS = ("transformers", "litgpt", "nanogpt")
Shape = dict[str, int]
Step = Callable[[Tensor], object]


def nanogpt(shape: Shape) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from minimal_gpt import MinimalGPT

    model = MinimalGPT(shape)
    return model, model


def build_engine(shape: Shape, device: str = "cpu", **settings: Any):
    """groundup is imported here, because the litgpt environment lacks it. `settings`: fields of Machine, and the precision."""
    from groundup.artifacts.machine import Machine
    from groundup.recipe.train_config import TrainConfig
    from groundup.train import NEXT_TOKEN, NativeEngine
    from groundup.train.device import setup_device

    precision = settings.pop("precision", "bfloat16")
    machine = Machine(device=device, threads=torch.get_num_threads(), **settings)
    config = TrainConfig(steps=1_000, learning_rate=1e-4, warmup_steps=0, evaluate_every=1_000, precision=precision)
    with setup_device(machine):
        model, _ = groundup(shape)
    return NativeEngine(model, NEXT_TOKEN, config, machine)


def groundup_step(shape: Shape, device: str, **settings: Any) -> Step:
    from groundup.train.device import deterministic_algorithms

    engine, exact = build_engine(shape, device, **settings), settings.get("deterministic", True)

    def step(tokens: Tensor) -> None:
        with deterministic_algorithms(engine.device, exact):
            engine.forward_backward({"tokens": tokens, "labels": tokens})
        engine.optimizer_step(1.0)

    return step


def peer_step(name: str, shape: Shape, compiled: bool, passes: int, device: str) -> Step:
    with torch.device(device):
        model, loss = {"transformers": transformers, "litgpt": litgpt, "nanogpt": nanogpt}[name](shape)
    model.train()
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    if compiled:
        loss = torch.compile(loss)

    def step(tokens: Tensor) -> None:
        for part in tokens.to(device, non_blocking=True).chunk(passes):
            with torch.autocast(device, dtype=torch.bfloat16):
                mean = loss(part) / passes
            mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(
    name: str,
    shape: Shape,
    compiled: bool,
    passes: int,
    steps: int,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Seconds of the best step of one contestant, and bytes, in this process. `options`: see build_engine."""
    if name != "nanogpt":
        importlib.import_module("groundup.train" if name == "groundup" else name)
    before = peak_bytes(device)
    torch.manual_seed(0)
    if name == "groundup":
        step = groundup_step(shape, device, compile="always" if compiled else "never", **(options or {}))
    else:
        step = peer_step(name, shape, compiled, passes, device)
    tokens = torch.randint(shape["vocab"], (shape["batch"], shape["length"]))
    if device == "cuda":
        tokens = tokens.pin_memory()
    seconds, worked = [], []
    for _ in range(steps + 2):
        began, busy = time.perf_counter(), time.process_time()
        step(tokens)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        worked.append(time.process_time() - busy)
    return {
        "seconds": min(seconds[2:]),
        "processor_seconds": min(worked[2:]),
        "memory": peak_bytes(device) - before,
        "first_step": seconds[0],
    }


def loop_overhead(shape: Shape, steps: int) -> float:
    """The fraction of a run's time outside of the engine: batches, metrics, checks, progress."""
    from groundup.artifacts.machine import Machine
    from groundup.train import run_training_loop

    engine, inside = build_engine(shape), 0.0

    def timed(call):
        def wrapped(*arguments):
            nonlocal inside
            began = time.perf_counter()
            result = call(*arguments)
            inside += time.perf_counter() - began
            return result

        return wrapped

    class SameBatch:
        tokens = torch.randint(shape["vocab"], (shape["batch"], shape["length"]))

        def batch(self, step: int) -> dict[str, Tensor]:
            return {"tokens": self.tokens, "labels": self.tokens}

    engine.forward_backward, engine.optimizer_step = (timed(engine.forward_backward), timed(engine.optimizer_step))
    settings = engine.settings.model_copy(update={"steps": steps})
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(device="cpu", trackers=None, checkpoint_every_seconds=1e9)
        began = time.perf_counter()
        result = run_training_loop(engine, SameBatch(), settings, Path(folder), machine, flops_per_token=1.0)
        total = sum(record["seconds"] for record in result.records)
    assert total <= time.perf_counter() - began
    return 1 - inside / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="30m")
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile (minutes)")
    parser.add_argument("--loop", action="store_true", help="only the overhead of the training loop")
    parser.add_argument("--litgpt-python", default=sys.executable, help="Python of an environment that has litgpt")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = {name: getattr(options, name) for name in ("vocab", "batch", "length")}
    shape = SHAPES[options.shape] | {name: value for name, value in given.items() if value is not None}
    if options.one:
        name, mode, passes = options.one
        print(json.dumps(measure(name, shape, mode == "compiled", int(passes), options.steps)))
        return
    if options.loop:
        print(f"outside of the engine: {loop_overhead(shape, options.steps):.2%} of {options.steps} steps")
        return

    pythons = {name: options.litgpt_python if name == "litgpt" else sys.executable for name in PEERS}
    present = [name for name in PEERS if name == "nanogpt" or not is_missing(name, pythons[name])]
    passes = max(1, shape["batch"] * shape["length"] // PASS_TOKENS)
    runs = [(name, mode, split) for name in present for split in sorted({1, passes}) for mode in modes(options)]
    runs = [("groundup", mode, passes) for mode in modes(options)] + runs
    best: dict[tuple[str, str, int], dict[str, float]] = {}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    flags += ["--shape", options.shape, "--steps", str(options.steps), "--threads", str(options.threads)]
    for _ in range(options.rounds):
        for run in runs:
            command = [pythons.get(run[0], sys.executable), __file__, "--one", *map(str, run), *flags]
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                print(f"{run}: failed: {(done.stderr.strip() or 'killed').splitlines()[-1]}", file=sys.stderr)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            print(run, {name: round(value, 3) for name, value in found.items()}, file=sys.stderr, flush=True)
            known = best.setdefault(run, found)
            best[run] = {key: min(found[key], known[key]) for key in found}
    report(best, shape, options)
    for name in set(PEERS) - set(present):
        print(f"{name}: not installed in {pythons[name]}")


def modes(options: argparse.Namespace) -> tuple[str, ...]:
    return ("eager", "compiled") if options.compiled else ("eager",)


def report(best: dict, shape: Shape, options: argparse.Namespace) -> None:
    peak, tokens = matmul_peak("cpu", options.threads), shape["batch"] * shape["length"]
    print(f"{shape}, {options.threads} threads, matmul peak {peak / 1e9:,.0f} GFLOP/s")
    print(f"{'':30} {'tokens/s':>9} {'of peak':>8} {'CPU s':>7} {'MB':>7} {'first step':>11}")
    rows = []
    for (name, mode, passes), figures in best.items():
        rows.append(
            {
                "name": name,
                "mode": mode,
                "passes": passes,
                "tokens_per_second": tokens / figures["seconds"],
                "fraction_of_peak": flops(shape) / figures["seconds"] / peak,
                "processor_seconds": figures["processor_seconds"],
                "memory_bytes": figures["memory"],
                "first_step_seconds": figures["first_step"],
            }
        )
        row = rows[-1]
        label, megabytes = f"{name}, {mode}, {passes} passes", row["memory_bytes"] / 1e6
        print(
            f"{label:30} {row['tokens_per_second']:>9,.0f} {row['fraction_of_peak']:>8.0%} "
            f"{row['processor_seconds']:>7.2f} {megabytes:>7,.0f} {figures['first_step']:>9.1f} s"
        )
    ours = [row for row in rows if row["name"] == "groundup"]
    peers = [row for row in rows if row["name"] != "groundup"]
    if ours and peers:
        speed = max(r["tokens_per_second"] for r in ours) / max(r["tokens_per_second"] for r in peers)
        ours_bytes = ours[0]["memory_bytes"]
        unsplit = ours_bytes / min(r["memory_bytes"] for r in peers if r["passes"] == 1)
        split = ours_bytes / min(r["memory_bytes"] for r in peers)
        work = min(r["processor_seconds"] for r in peers) / min(r["processor_seconds"] for r in ours)
        print(f"ours to the fastest peer: {speed:.2f} times the tokens/s, {work:.2f} times by CPU seconds")
        print(
            f"memory, eager, relative to the smallest peer: {unsplit:.2f} with its batch in one pass, {split:.2f} in several"
        )
    if options.json:
        Path(options.json).write_text(json.dumps({"shape": shape, "matmul_peak": peak, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
