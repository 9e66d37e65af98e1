"""04-base: a transformer learns to continue the text."""

import math
import shutil
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.evaluate import score_windows
from groundup.model import build_model, save_model
from groundup.plan.count import count
from groundup.plan.derive import required
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.train.batches import Batches
from groundup.train.device import prepare
from groundup.train.engines import build_engine
from groundup.train.loop import train
from groundup.train.objectives import NEXT_TOKEN

VALIDATION_TOKENS = 16_384
"""Held-out tokens that are scored on schedule; 05-scores takes more of them, with intervals."""


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Train a model of `recipe.model` by `recipe.train` on the token shards.

    Writes the model folder (model.json, model.safetensors, the tokenizer) steps.jsonl and probes.jsonl.
    Returns parameters, tokens, the loss at the end, held-out bits per byte on schedule, and the speed.
    """
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    text, held_out = TokenShard(inputs["tokens"] / "train"), TokenShard(inputs["tokens"] / "validation")
    config = ModelConfig(**recipe.model.model_dump(exclude_none=True))
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.vocab_size}, but the tokenizer has {tokenizer.vocab_size} entries",
            hint=f"leave model.vocab_size out, or set it to {tokenizer.vocab_size} or more",
        )
    device = prepare(machine)
    torch.manual_seed(recipe.seed)
    model = build_model(config).to(device)
    engine = build_engine(model, NEXT_TOKEN, recipe.train, machine)
    length = required(recipe.train.sequence_length, "train.sequence_length")
    batches = Batches.of(text, recipe.train, recipe.seed, rank=engine.data_rank, ranks=engine.data_ranks)

    def held_out_loss(network: torch.nn.Module) -> dict[str, float]:
        score = score_windows(network, held_out, length, max_tokens=VALIDATION_TOKENS)
        return {"bits_per_byte": score.bits_per_byte}

    result = train(engine, batches, recipe.train, out, machine, probe=held_out_loss, name="pretraining")
    model = engine.trained()
    save_model(model, out)
    tokenizer.save(out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    seen = batches.facts(required(recipe.train.steps, "train.steps") - 1)
    last = result.records[-max(1, len(result.records) // 50) :]
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "parameters_by_part": vars(count(config)) | {},
        "tokens": required(recipe.train.tokens, "train.tokens"),
        "epochs": seen["epoch"],
        "epochs_of": seen.get("epochs_of", {}),
        "steps": recipe.train.steps,
        "final_loss": math.fsum(record["loss"] for record in last) / len(last),
        "validation": result.probes,
        "speed": result.speed,
    }
