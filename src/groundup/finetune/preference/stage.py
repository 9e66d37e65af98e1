"""Stage 07-preference: training of the chat model on preferences."""

from pathlib import Path
from typing import Any

from groundup.artifacts.jsonl_file import write_jsonl
from groundup.artifacts.machine import Machine
from groundup.artifacts.rank_environment import is_main
from groundup.finetune.example_tasks import mean_loss
from groundup.finetune.finetune_plan import with_chat_template
from groundup.finetune.finetune_task import greedy_answers
from groundup.finetune.preference.answer_samples import kl_divergence, mean_length, sample_answers
from groundup.finetune.preference.preference_tuning import PreferenceResult, finetune_preferences
from groundup.finetune.preference.reference_log_probs import REFERENCE_FILE, response_log_prob_sums
from groundup.finetune.trainable_base import load_base, machine_of_rank, save_tuned
from groundup.finetune.training_data.example_sources import split_examples
from groundup.finetune.training_data.preference_data import LabelledAnswer, Preference, read_items
from groundup.finetune.training_data.read_stats import DROP_REASONS, ReadStats
from groundup.finetune.tuning_options import TuningOptions
from groundup.interop.adapters.base_fingerprint import has_trained_tokens
from groundup.interop.base_model import read_added_tokens
from groundup.interop.reward_files import write_reward
from groundup.parallel import process_group
from groundup.recipe import RecipeView
from groundup.recipe.preference_config import PreferenceConfig
from groundup.stages import last_model_stage
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoints import discard_checkpoints
from groundup.train.device import setup_device

OPTIONS = ("loss", "beta", "label_smoothing", "simpo_gamma", "desirable_weight", "undesirable_weight")
"""Knobs that are arguments of `finetune_preferences`, beside those of TuningOptions."""


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Train the last model on preferences, resuming from a checkpoint in `out`.

    Writes the model folder (merged weights, tokenizer), `adapter/` with LoRA, the preferences as used (train.jsonl,
    validation.jsonl, dropped.jsonl) and steps.jsonl. Returns the metrics: loss_name and options, method, from (stage of the
    model), preferences (read, kept, dropped, train, validation), tokens, epochs, learning_rate, steps, parameters,
    kept_step and stopped_early, loss, scores (before, after; see PreferenceScores), validation over time, sampled (number,
    tokens of an answer before and after, KL divergence from the model before in nats a token), greedy answers to
    recipe.preference.prompts before and after, speed.
    """
    machine = machine_of_rank(machine)
    config: PreferenceConfig = recipe.preference
    source = last_model_stage(inputs) or "base"
    tokenizer = with_chat_template(Tokenizer.load(inputs[source]))
    new_tokens = read_added_tokens(inputs["base"]) if "base" in inputs else ()
    is_taught = has_trained_tokens(inputs[source], tokenizer)
    tuning = TuningOptions.from_config(config, trained_tokens=is_taught, new_tokens=new_tokens)
    model: Any = load_base(inputs[source], config.method, setup_device(machine))
    parameters = sum(weight.numel() for weight in model.parameters())
    items, stats = read_items(config, machine)
    train, validation = split_examples(items, config.validation_fraction, lambda item: repr(item.prompt))
    answers_before, sampled_before = [], []
    is_chat = config.loss != "reward"
    if is_chat:
        machine.progress.log(f"answering {len(config.prompts)} prompts and held-out ones, before the training")
        answers_before = greedy_answers(model, tokenizer, config.prompts)
        sampled_before = sample_answers(model, tokenizer, validation, recipe.seed)
    with process_group(setup_device(machine), machine.stall_timeout_seconds):
        result = finetune_preferences(
            model, tokenizer, train, validation, merge=False, folder=out, machine=machine, seed=recipe.seed,
            keep_best_weights=config.keep_best_weights is not False,
            **{name: getattr(config, name) for name in OPTIONS}, **tuning.as_arguments(),
        )  # fmt: skip
    if not is_main():
        return {}
    model = result.model
    save_tuned(model, tokenizer, out, config.method, inputs[source])
    _write_items(result, stats, out)
    answers, sampled, divergence = [], [], None
    if result.reward_model is not None:
        write_reward(result.reward_model.score.weight, model, out)
    else:
        answers = greedy_answers(model, tokenizer, config.prompts)
        sampled = sample_answers(model, tokenizer, validation, recipe.seed)
        log_probs = response_log_prob_sums(model, sampled, "float32", machine, "divergence, model")
        del model
        reference = load_base(inputs[source], config.method, setup_device(machine))
        before = response_log_prob_sums(reference, sampled, "float32", machine, "divergence, reference")
        divergence = kl_divergence(log_probs, before, sampled)
    discard_checkpoints(out, machine.keep_checkpoint_every, list(out.glob(REFERENCE_FILE.format("*"))))
    return {
        "from": source,
        "method": config.method,
        "preferences": stats.summary() | {
            "train": len(result.train), "validation": len(result.validation), "reasons": DROP_REASONS
        },
        "parameters": {"all": parameters, "trained": result.trained_parameters},
        "sampled": {
            "answers": len(sampled), "tokens_before": mean_length(sampled_before), "tokens_after": mean_length(sampled),
            "kl": divergence,
        },
        "answers": [
            {"prompt": prompt, "before": before, "answer": after}
            for prompt, before, after in zip(config.prompts, answers_before, answers, strict=False)
        ],
    } | training_metrics(result, config)  # fmt: skip


def training_metrics(result: PreferenceResult, config: PreferenceConfig) -> dict[str, Any]:
    """The metrics of the training itself."""
    records, kept = result.training.records, result.training.kept_step
    window = max(1, len(records) // 20)
    scores = None
    if result.before is not None and result.after is not None:
        scores = {"before": result.before.means(), "after": result.after.summary(result.before)}
    return {
        "loss_name": config.loss,
        "options": result.options,
        "tokens": sum(record["tokens"] for record in records),
        "epochs": round(result.knobs["epochs"] * len(records) / (result.config.steps or 1), 2),
        "batch_tokens": result.knobs["batch_tokens"],
        "learning_rate": result.knobs["learning_rate"],
        "steps": len(records),
        "kept_step": kept,
        "stopped_early": result.training.stopped_early,
        "loss": {"train_start": mean_loss(records[:window]), "train_end": mean_loss(records[:kept][-window:])},
        "scores": scores,
        "validation": result.training.evaluations,
        "speed": result.training.speed,
    }


def _write_items(result: PreferenceResult, stats: ReadStats, out: Path) -> None:
    for item, reason in result.dropped:
        stats.kept -= 1
        stats.drop(reason, as_record(item), item.source, item.file, item.line)
    for name, part in (("train", result.train), ("validation", result.validation)):
        write_jsonl(out / f"{name}.jsonl", (as_record(item) for item, _ in part))
    write_jsonl(out / "dropped.jsonl", stats.positions)


def as_record(item: Preference | LabelledAnswer) -> dict[str, Any]:
    """The item in the form in which files are read."""
    if isinstance(item, Preference):
        answers = {"chosen": item.chosen, "rejected": item.rejected}
    else:
        answers = {"completion": item.completion, "label": item.desirable}
    tools = {"tools": item.tools} if item.tools else {}
    return {"prompt": item.prompt, **answers, **tools, "source": item.source}
