"""Break-even of compilation: time to the first step, cold and warm, and tokens/s, compiled and eager.

    python benchmarks/train_compile.py [--hidden 256 --layers 6 --steps 12]

Each variant runs in a process of its own, for a defined cache state. All times are CPU seconds, compilers included, which
other load affects least; they equal wall time on an idle machine with one thread, except for parallel compilers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile


def measure(hidden: int, layers: int, steps: int, compile_mode: str, cache: str) -> dict[str, float]:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # compilers that a pool keeps alive would not be counted
    from pathlib import Path

    import torch

    from groundup.artifacts.machine import Machine
    from groundup.model import build_model
    from groundup.recipe import ModelConfig
    from groundup.recipe.train_config import TrainConfig
    from groundup.train import NEXT_TOKEN, NativeEngine

    config = ModelConfig(
        vocab_size=8192, hidden_size=hidden, num_layers=layers, num_heads=hidden // 64, context_length=512
    )
    torch.manual_seed(0)
    settings = TrainConfig(steps=steps, learning_rate=1e-3, warmup_steps=1, evaluate_every=steps)
    engine = NativeEngine(
        build_model(config),
        NEXT_TOKEN,
        settings,
        Machine(compile=compile_mode, cache_dir=Path(cache), micro_batch_size=4),
    )
    tokens = torch.randint(0, 8192, (8, 512))
    times = []
    for _ in range(steps):
        began = cpu_seconds()
        engine.forward_backward({"tokens": tokens, "labels": tokens})
        engine.optimizer_step(1.0)
        times.append(cpu_seconds() - began)
    return {"first_step_seconds": times[0], "tokens_per_second": tokens.numel() / min(times[2:])}


def cpu_seconds() -> float:
    """CPU seconds of this process and its finished children."""
    usages = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


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
        results = {}
        for name, compile_mode in (("eager", "never"), ("cold", "always"), ("warm", "always")):
            command = [sys.executable, __file__, "--hidden", str(options.hidden), "--layers", str(options.layers)]
            command += ["--steps", str(options.steps), "--one", compile_mode, cache]
            results[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{name:<6}", {key: round(value, 2) for key, value in results[name].items()}, flush=True)
    gain = results["warm"]["tokens_per_second"] / results["eager"]["tokens_per_second"]
    print(f"compiled to eager: {gain:.3f}")
    for name in ("cold", "warm"):
        lost = results[name]["first_step_seconds"] - results["eager"]["first_step_seconds"]
        pays = f"{lost / (1 - 1 / gain):,.0f} s of eager training" if gain > 1 else "never"
        print(f"{name}: {lost:.1f} s lost at the start; won back after {pays}", flush=True)


if __name__ == "__main__":
    main()
