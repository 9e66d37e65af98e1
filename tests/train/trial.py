"""One training run for the fault tests, in processes that may be killed: python trial.py FOLDER KILLS SEED.

The parent loads torch once; each attempt is a fork of it, so twenty of them take seconds. Prints how many attempts were
killed while they ran, and how many finished steps each found when it began.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from groundup.artifacts.machine import Machine
from groundup.model import build_model, save_model
from groundup.recipe import ModelConfig
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer import TokenShard
from groundup.train import NEXT_TOKEN, NativeEngine, run_training_loop
from groundup.train.checkpoints import list_checkpoints
from groundup.train.prefetch import BatchSource as Source
from groundup.train.prefetch import Prefetcher
from groundup.train.token_batches import TokenBatches

STEPS = 160


class RandomTokens:
    """Rows of tokens, a pure function of the step."""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(step))
        return {"tokens": tokens, "labels": tokens}


class FromShard:
    """Rows of the tokens of `folder`; before each batch, `before` may change what is there."""

    def __init__(self, folder: Path, before: Callable[[int], object] = lambda step: None):
        self.batches, self.before = TokenBatches(TokenShard(folder / "train"), 16, 4, seed=0), before

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        self.before(step)
        return self.batches.batch(step)


def run(folder: Path, steps: int = STEPS, checkpoint_seconds: float = 0.0, source: Source | None = None) -> None:
    """Train to the end, from wherever `folder` is; all options that have a state of their own are on."""
    torch.set_num_threads(1)  # another number changes bits
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, context_length=16)
    model = build_model(config)
    settings = TrainConfig(
        steps=steps, learning_rate=0.01, warmup_steps=3, evaluate_every=50, optimizer="muon", weight_averaging="ema",
        precision="bfloat16",
    )  # fmt: skip
    machine = Machine(device="cpu", checkpoint_every_seconds=checkpoint_seconds, micro_batch_size=2)
    engine = NativeEngine(model, NEXT_TOKEN, settings, machine)
    with Prefetcher(source or RandomTokens(), steps=steps, threads=1) as batches:
        run_training_loop(
            engine,
            batches,
            settings,
            folder,
            machine,
            eval_fn=lambda network: {"norm": sum(w.norm().item() for w in network.parameters())},
        )
    save_model(engine.finalize(), folder)


def attempt(folder: Path, seconds: float) -> bool:
    """Let a fork train and kill it after `seconds`; false where it had ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            run(folder)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    folder, kills, dice = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    found, killed = [], 0
    for _ in range(kills):
        steps = [int(path.name[5:]) for path in list_checkpoints(folder / "checkpoints")]
        found.append(max(steps, default=0))
        killed += attempt(folder, dice.uniform(0.05, 0.5))
    run(folder)
    print(json.dumps({"killed": killed, "found": found}))


if __name__ == "__main__":
    main()
