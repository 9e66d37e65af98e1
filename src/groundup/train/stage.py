"""04-base: a transformer learns to continue the text, or to guess what is hidden from it."""

import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.evaluate import score_windows
from groundup.evaluate.hidden import Hide, hiding, score_hidden
from groundup.evaluate.samples import continuations
from groundup.model import Decoder, build_model, save_model
from groundup.parallel import joined
from groundup.plan.count import count, training_flops_per_token
from groundup.plan.derive import required
from groundup.recipe import ModelConfig
from groundup.recipe.train import TrainSection
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.train.batches import Batches
from groundup.train.checkpoints import clear
from groundup.train.device import prepare
from groundup.train.engines import build_engine
from groundup.train.hidden import HiddenBatches
from groundup.train.loop import Probe, train
from groundup.train.objectives import IN_PLACE, NEXT_TOKEN, with_z_loss
from groundup.train.prefetch import Prefetch

VALIDATION_TOKENS = 16_384
"""Held-out tokens that are scored on schedule; 05-scores takes more of them, with intervals."""

SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 48, 0.8
"""Of the texts that are continued on schedule."""


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Train a model of `recipe.model` by `recipe.train` on the token shards.

    Writes the model folder (model.json, model.safetensors, the tokenizer), steps.jsonl and probes.jsonl.
    Returns parameters, tokens, the loss at the end, held-out bits per byte (or hidden tokens guessed) on schedule, and
    the speed.
    """
    apart = recipe.train.engine != "native"
    with joined(prepare(machine), stall_seconds=machine.stall_seconds, alone=apart) as device:
        return _run(recipe, inputs, out, machine, device)


def _run(
    recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine, device: torch.device
) -> dict[str, Any]:
    settings: TrainSection = recipe.train
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    place = settings.shards or inputs["tokens"]
    text, held_out = (TokenShard(f"{place}/{split}", machine.cache) for split in ("train", "validation"))
    for shard in (text, held_out):
        shard.check(tokenizer)
    config = ModelConfig(**recipe.model.model_dump(exclude_none=True))
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.vocab_size}, but the tokenizer has {tokenizer.vocab_size} entries",
            hint=f"leave model.vocab_size out, or set it to {tokenizer.vocab_size} or more",
        )
    torch.manual_seed(recipe.seed)
    model = build_model(config).to(device)
    from_left = config.architecture == "decoder"
    objective = with_z_loss(NEXT_TOKEN if from_left else IN_PLACE, settings.z_loss)
    engine = build_engine(model, objective, settings, machine)
    length = required(settings.sequence_length, "train.sequence_length")
    batches = Batches.of(text, settings, recipe.seed, rank=engine.data_rank, ranks=engine.data_ranks)
    look = _look_from_left(recipe, tokenizer, held_out, length)
    if not from_left:
        hide = hiding(config, tokenizer, settings.hidden_share, settings.span_length)
        plain = settings.packing == "plain" and not settings.document_mask
        batches = HiddenBatches(batches, hide, recipe.seed, engine.data_rank, plain=plain)
        look = _look_at_hidden(recipe, hiding(config, tokenizer), held_out, length)

    steps = required(settings.steps, "train.steps")
    with Prefetch(batches, steps=steps, threads=machine.loader_threads, pin=device.type == "cuda") as ahead:
        result = train(
            engine,
            ahead,
            settings,
            out,
            machine,
            probe=look,
            facts=batches.facts,
            flops_per_token=training_flops_per_token(config, length),
            seed=recipe.seed,
            name="pretraining",
        )
    model = engine.trained()
    if engine.main:
        save_model(model, out)
        tokenizer.save(out)
        clear(out / "checkpoints", machine.keep_every)
    seen = batches.facts(len(result.records) - 1)
    steps = len(result.records)
    last = [record["loss"] for record in result.records[-max(1, steps // 50) :] if record["loss"] is not None]
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "parameters_by_part": vars(count(config)) | {},
        "tokens": sum(record["tokens"] for record in result.records),
        "epochs": seen["epoch"],
        "epochs_of": seen.get("epochs_of", {}),
        "steps": steps,
        "final_loss": math.fsum(last) / max(1, len(last)),
        "validation": result.probes,
        "speed": result.speed,
    }


def _look_from_left(recipe: Any, tokenizer: Tokenizer, held_out: TokenShard, length: int) -> Probe:
    """Bits per byte of held-out text, and samples where they are asked for."""
    settings: TrainSection = recipe.train

    def look(network: nn.Module) -> dict[str, Any]:
        score = score_windows(network, held_out, length, max_tokens=VALIDATION_TOKENS)
        found: dict[str, Any] = {"bits_per_byte": score.bits_per_byte}
        if settings.sample_prompts:
            found["samples"] = continuations(
                cast(Decoder, network), tokenizer, settings.sample_prompts,
                max_tokens=SAMPLE_TOKENS, temperature=SAMPLE_TEMPERATURE, seed=recipe.seed,
            )  # fmt: skip
        return found

    return look


def _look_at_hidden(recipe: Any, hide: Hide, held_out: TokenShard, length: int) -> Probe:
    """How many hidden tokens of held-out text the model guesses."""

    def look(network: nn.Module) -> dict[str, Any]:
        return score_hidden(network, hide, held_out, length, max_tokens=VALIDATION_TOKENS, seed=recipe.seed)

    return look
