"""When does compiling the step pay? Time to the first step, cold and warm, and tokens/s, eager beside compiled.

    python benchmarks/train_compile.py [--hidden 256 --layers 6 --steps 12]

Each variant runs in a process of its own, so that nothing is warm that should be cold. All is measured in seconds of the
processor, compilers included, which other work on the machine changes least; on a quiet machine with one thread they are
those of the clock, but for compilers that run side by side.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile


def measure(hidden: int, layers: int, steps: int, how: str, cache: str) -> dict[str, float]:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = (
        "1"  # compilers that a pool keeps alive would not be counted
    )
    from pathlib import Path

    import torch

    from groundup.artifacts.machine import Machine
    from groundup.model import build_model
    from groundup.recipe import ModelConfig
    from groundup.recipe.train_config import TrainConfig
    from groundup.train import NEXT_TOKEN, NativeEngine

    config = ModelConfig(
        vocab_size=8192,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=hidden // 64,
        context_length=512,
    )
    torch.manual_seed(0)
    settings = TrainConfig(steps=steps, learning_rate=1e-3, warmup_steps=1, evaluate_every=steps)
    engine = NativeEngine(
        build_model(config),
        NEXT_TOKEN,
        settings,
        Machine(compile=how, cache_dir=Path(cache), micro_batch_size=4),
    )
    tokens = torch.randint(0, 8192, (8, 512))
    times = []
    for _ in range(steps):
        began = busy()
        engine.forward_backward({"tokens": tokens, "labels": tokens})
        engine.optimizer_step(1.0)
        times.append(busy() - began)
    return {"first_step_seconds": times[0], "tokens_per_second": tokens.numel() / min(times[2:])}


def busy() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", nargs=2, metavar=("HOW", "CACHE"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.hidden, options.layers, options.steps, *options.one)))
        return
    with tempfile.TemporaryDirectory() as cache:
        found = {}
        for name, how in (("eager", "never"), ("cold", "always"), ("warm", "always")):
            command = [
                sys.executable,
                __file__,
                "--hidden",
                str(options.hidden),
                "--layers",
                str(options.layers),
            ]
            command += ["--steps", str(options.steps), "--one", how, cache]
            found[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{name:<6}", {key: round(value, 2) for key, value in found[name].items()}, flush=True)
    gain = found["warm"]["tokens_per_second"] / found["eager"]["tokens_per_second"]
    print(f"compiled to eager: {gain:.3f}")
    for name in ("cold", "warm"):
        lost = found[name]["first_step_seconds"] - found["eager"]["first_step_seconds"]
        pays = f"{lost / (1 - 1 / gain):,.0f} s of eager training" if gain > 1 else "never"
        print(f"{name}: {lost:.1f} s lost at the start; won back after {pays}", flush=True)


if __name__ == "__main__":
    main()
