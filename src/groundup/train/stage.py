"""Stage 04-base: pretraining, as a causal or masked language model."""

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from groundup.artifacts.harness_metrics import metric_rows
from groundup.artifacts.machine import Machine
from groundup.evaluate import score_windows
from groundup.evaluate.harness_scores import harness_scores
from groundup.evaluate.masked_lm import make_mask_function, score_masked
from groundup.evaluate.text_samples import sample_continuations
from groundup.interop.base_model import open_base
from groundup.model import Decoder, build_model, save_model
from groundup.parallel import process_group
from groundup.plan.checks.stage_support import check_objective, check_vocab_size
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.shape.parameter_count import count_parameters, training_flops_per_token
from groundup.recipe import ModelConfig, RecipeView
from groundup.recipe.base_model_config import BaseModelConfig
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.train.checkpoints import discard_checkpoints
from groundup.train.device import setup_device
from groundup.train.engines import build_engine
from groundup.train.masked_batches import MaskedBatches
from groundup.train.objectives import default_objective, with_z_loss
from groundup.train.prefetch import Prefetcher
from groundup.train.token_batches import TokenBatches
from groundup.train.training_loop import EvalFn, run_training_loop

VALIDATION_TOKENS = 16_384
"""Validation tokens of each scheduled evaluation; stage 05-scores evaluates more, with confidence intervals."""

SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 48, 0.8
"""Length and temperature of scheduled samples."""


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Train a model of `recipe.model` by `recipe.train` on the token shards.

    Writes the model folder (model.json, model.safetensors, tokenizer), steps.jsonl and eval.jsonl.
    Returns parameters, tokens, steps, the step of the kept weights and whether training stopped early, the training loss
    there, validation scores (bits per byte, or masked-token loss) and speed.
    """
    own_engine = recipe.train.engine != "native"
    with process_group(
        setup_device(machine), stall_seconds=machine.stall_timeout_seconds, single_process=own_engine
    ) as device:
        return _run(recipe, inputs, out, machine, device)


def _run(
    recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine, device: torch.device
) -> dict[str, Any]:
    settings: TrainConfig = recipe.train
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    shards = settings.token_shards or inputs["tokens"]
    text, held_out = (TokenShard(f"{shards}/{split}", machine.cache_dir) for split in ("train", "validation"))
    for shard in (text, held_out):
        shard.check_tokenizer(tokenizer)
    config = ModelConfig(**recipe.model.model_dump(exclude_none=True))
    check_vocab_size(config, tokenizer.vocab_size)
    check_objective(config, settings)
    torch.manual_seed(recipe.seed)
    model = _initial_model(recipe, config).to(device)
    objective = with_z_loss(default_objective(model), settings.z_loss)
    engine = build_engine(model, objective, settings, machine)
    length = require_derived(settings.sequence_length, "train.sequence_length")
    batches = TokenBatches.from_recipe(
        text, settings, recipe.seed, rank=engine.data_rank, num_ranks=engine.data_world_size
    )
    eval_fn = _causal_lm_eval(recipe, tokenizer, held_out, length, machine)
    if config.architecture != "decoder":
        mask_tokens = make_mask_function(config, tokenizer, settings.mask_rate, settings.mean_span_length)
        batches = MaskedBatches(batches, mask_tokens, recipe.seed, engine.data_rank)
        eval_fn = partial(
            score_masked, mask_function=make_mask_function(config, tokenizer), shard=held_out, length=length,
            max_tokens=VALIDATION_TOKENS, seed=recipe.seed,
        )  # fmt: skip

    steps = require_derived(settings.steps, "train.steps")
    with Prefetcher(
        batches, steps=steps, threads=machine.dataloader_threads, pin_memory=device.type == "cuda"
    ) as prefetcher:
        result = run_training_loop(
            engine,
            prefetcher,
            settings,
            out,
            machine,
            eval_fn=eval_fn,
            step_stats=batches.step_stats,
            flops_per_token=training_flops_per_token(config, length),
            seed=recipe.seed,
            name="pretraining",
        )
    model = engine.finalize()
    if engine.is_main:
        save_model(model, out)
        tokenizer.save(out)
        discard_checkpoints(out, machine.keep_checkpoint_every)
    stats = batches.step_stats(len(result.records) - 1)
    steps = len(result.records)
    kept = result.records[: result.kept_step]
    last = [record["loss"] for record in kept[-max(1, steps // 50) :] if record["loss"] is not None]
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "parameters_by_part": vars(count_parameters(config)) | {},
        "tokens": sum(record["tokens"] for record in result.records),
        "epochs": stats["epoch"],
        "epochs_by_source": stats.get("epochs_by_source", {}),
        "steps": steps,
        "kept_step": result.kept_step,
        "stopped_early": result.stopped_early,
        "final_loss": math.fsum(last) / max(1, len(last)),
        "validation": result.evaluations,
        "speed": result.speed,
    }


def _initial_model(recipe: RecipeView, config: ModelConfig) -> nn.Module:
    """A new model, or with [base] that one, in float32."""
    base: BaseModelConfig | None = getattr(recipe, "base", None)  # declared only in a recipe with [base]
    if base is None:
        return build_model(config)
    return open_base(base, torch.float32)[0].train()


def _causal_lm_eval(
    recipe: RecipeView, tokenizer: Tokenizer, held_out: TokenShard, length: int, machine: Machine
) -> EvalFn:
    """Bits per byte of validation text; with train.harness its tasks, with train.sample_prompts samples."""
    settings: TrainConfig = recipe.train

    def evaluate(model: nn.Module) -> dict[str, Any]:
        score = score_windows(model, held_out, length, max_tokens=VALIDATION_TOKENS)
        values: dict[str, Any] = {"bits_per_byte": score.bits_per_byte}
        if settings.harness is not None:
            scores = harness_scores(settings.harness, model, tokenizer, machine, recipe.seed)
            values |= {f"{task} {metric}": value for task, metric, value, _, _ in metric_rows(scores)}
        if settings.sample_prompts:
            values["samples"] = sample_continuations(
                cast(Decoder, model), tokenizer, settings.sample_prompts,
                max_tokens=SAMPLE_TOKENS, temperature=SAMPLE_TEMPERATURE, seed=recipe.seed,
            )  # fmt: skip
        return values

    return evaluate
