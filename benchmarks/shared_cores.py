"""A training step beside other programs on the same cores, by how OpenMP's threads wait for each other.

    python benchmarks/shared_cores.py            # no other program, and five: about three minutes
    python benchmarks/shared_cores.py --load 11

Each setting has a process of its own, in alternating rounds; the median step of each round counts, and all rounds are
printed. The model is small, as those of two cores are: hundreds of small parallel regions a step.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

SETTINGS: dict[str, dict[str, str]] = {
    "as torch is": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "both": {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OMP_DYNAMIC")
BUSY = "while True: pass"


def measure_steps(steps: int, tokens: int) -> list[float]:
    """Seconds of each step of a model of 64 columns and 4 blocks."""
    import torch  # before groundup, which sets the variables that are compared

    from groundup import Decoder, ModelConfig

    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=4096, hidden_size=64, num_layers=4, num_heads=2, context_length=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = torch.randint(0, 4096, (tokens // 256, 256))
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def run_setting(variables: dict[str, str], load: int, steps: int, tokens: int) -> float:
    """Median seconds of a step in a new process, beside `load` processes that compute."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(load)]
    try:
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(steps), "--tokens", str(tokens)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return median(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=int, action="append", help="other programs; may be repeated")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_steps(options.measure, options.tokens)))
        return
    print("| waiting threads | other programs | seconds of a step, by round |\n|---|---|---|")
    for load in options.load or (0, 5):
        rounds = [
            {name: run_setting(setting, load, options.steps, options.tokens) for name, setting in SETTINGS.items()}
            for _ in range(options.rounds)
        ]
        for name in SETTINGS:
            print(f"| {name} | {load} | {', '.join(f'{each[name]:.2f}' for each in rounds)} |", flush=True)


if __name__ == "__main__":
    main()
