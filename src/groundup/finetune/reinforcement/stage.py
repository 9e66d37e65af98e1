"""Stage 08-reinforcement: the last model learns from rewards for its own answers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from groundup.artifacts.jsonl_file import write_jsonl
from groundup.artifacts.machine import Machine
from groundup.artifacts.rank_environment import is_main
from groundup.evaluate.intervals import paired_share_interval, share_interval
from groundup.finetune.finetune_plan import with_chat_template
from groundup.finetune.finetune_task import greedy_answers
from groundup.finetune.reinforcement.recipe_rewards import build_reward, read_usable_problems
from groundup.finetune.reinforcement.reinforcement import ReinforcementResult, finetune_reinforcement
from groundup.finetune.trainable_base import load_base, machine_of_rank, save_tuned
from groundup.finetune.training_data.example_sources import split_examples
from groundup.finetune.training_data.read_stats import DROP_REASONS
from groundup.finetune.tuning_options import TuningOptions
from groundup.interop.adapters.base_fingerprint import has_trained_tokens
from groundup.interop.base_model import read_added_tokens
from groundup.parallel import process_group
from groundup.recipe import RecipeView
from groundup.recipe.reinforcement_config import ReinforcementConfig
from groundup.stages import last_model_stage
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoints import discard_checkpoints
from groundup.train.device import setup_device

OPTIONS = (
    "loss", "group_size", "prompts_per_step", "updates_per_rollout", "max_answer_tokens", "temperature", "kl_coefficient",
    "clip_range",
)  # fmt: skip
"""Knobs that are arguments of `finetune_reinforcement`, beside those of TuningOptions."""
CURVE = ("reward", "kl", "clip_fraction", "entropy", "answer_tokens", "cut_answers", "mixed_groups")
MAX_CURVE_POINTS = 200
SHOWN_ANSWERS = 5


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Let the last model learn from rewards, resuming from a checkpoint in `out`.

    Writes the model folder (merged weights, tokenizer), `adapter/` with LoRA, samples.jsonl (answers of each rollout),
    held_out.jsonl (held-out problems with the answers before and after), dropped.jsonl and steps.jsonl. Returns the metrics:
    from (stage of the model), loss_name, rewards, method, problems (read, kept, dropped, train, validation), parameters,
    learning_rate, steps, kept_step, sampled_answers, curve (reward, kl, ... by step), held_out (solved before and after, with
    intervals of 95%), validation over time, examples of held-out answers, answers to recipe.reinforcement.prompts before
    and after, speed.
    """
    machine = machine_of_rank(machine)
    config: ReinforcementConfig = recipe.reinforcement
    source = last_model_stage(inputs) or "base"
    tokenizer = with_chat_template(Tokenizer.load(inputs[source]))
    new_tokens = read_added_tokens(inputs["base"]) if "base" in inputs else ()
    is_taught = has_trained_tokens(inputs[source], tokenizer)
    tuning = TuningOptions.from_config(config, trained_tokens=is_taught, new_tokens=new_tokens)
    model: Any = load_base(inputs[source], config.method, setup_device(machine))
    parameters = sum(weight.numel() for weight in model.parameters())
    problems, stats = read_usable_problems(config, machine)
    train, validation = split_examples(problems, config.validation_fraction, lambda each: repr(each.messages))
    answers_before = greedy_answers(model, tokenizer, config.prompts)
    machine.progress.log(f"answering {len(validation):,} held-out problems, before the training")
    with process_group(setup_device(machine), machine.stall_timeout_seconds):
        result = finetune_reinforcement(
            model, tokenizer, train, build_reward(config.all_rewards, machine), validation,
            keep_best_weights=bool(config.keep_best_weights), merge=False, folder=out, machine=machine, seed=recipe.seed,
            **{name: getattr(config, name) for name in OPTIONS}, **tuning.as_arguments(),
        )  # fmt: skip
    if not is_main():
        return {}
    model = result.model
    save_tuned(model, tokenizer, out, config.method, inputs[source])
    for problem, reason in result.dropped:
        stats.kept -= 1
        stats.drop(reason, problem.prompt, "")
    write_jsonl(out / "dropped.jsonl", stats.positions)
    write_jsonl(out / "held_out.jsonl", _held_out_lines(result))
    answers = greedy_answers(model, tokenizer, config.prompts)
    discard_checkpoints(out, machine.keep_checkpoint_every)
    records = result.training.records
    return {
        "from": source,
        "loss_name": config.loss,
        "rewards": [f"{reward.kind} x {reward.weight:g}" for reward in config.all_rewards],
        "method": config.method,
        "problems": stats.summary() | {
            "train": len(result.problems), "validation": len(result.validation), "reasons": DROP_REASONS
        },
        "parameters": {"all": parameters, "trained": result.trained_parameters},
        "learning_rate": result.knobs["learning_rate"],
        "steps": len(records),
        "kept_step": result.training.kept_step,
        "stopped_early": result.training.stopped_early,
        "sampled_answers": config.prompts_per_step * config.group_size * len(records) // config.updates_per_rollout,
        "curve": reward_curve(records),
        "held_out": held_out_scores(result),
        "validation": result.training.evaluations,
        "examples": list(_held_out_lines(result))[:SHOWN_ANSWERS],
        "answers": [
            {"prompt": prompt, "before": before, "answer": after}
            for prompt, before, after in zip(config.prompts, answers_before, answers, strict=True)
        ],
        "speed": result.training.speed,
    }  # fmt: skip


def reward_curve(records: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Values by step, in at most MAX_CURVE_POINTS means of neighbouring steps."""
    size = max(1, -(-len(records) // MAX_CURVE_POINTS))
    groups = [records[begin : begin + size] for begin in range(0, len(records), size)]
    names = [
        name for name in (*CURVE, *sorted(records[0])) if name in records[0] and (name in CURVE or "reward_" in name)
    ]
    curve = {
        name: [sum(record[name] or 0.0 for record in group) / len(group) for group in groups]
        for name in dict.fromkeys(names)
    }
    return {"step": [group[-1]["step"] for group in groups]} | curve


def held_out_scores(result: ReinforcementResult) -> dict[str, Any] | None:
    """Share of solved held-out problems before and after, and their difference, with intervals; None without any."""
    if result.before is None or result.after is None:
        return None
    before, after = result.before.solved, result.after.solved
    return {
        "problems": len(before),
        "before": result.before.accuracy,
        "before_interval": share_interval(before),
        "after": result.after.accuracy,
        "after_interval": share_interval(after),
        "difference": result.after.accuracy - result.before.accuracy,
        "difference_interval": paired_share_interval(before, after),
        "reward_before": result.before.reward,
        "reward_after": result.after.reward,
    }


def _held_out_lines(result: ReinforcementResult) -> Iterable[dict[str, Any]]:
    if result.before is None or result.after is None:
        return
    for index, problem in enumerate(result.validation):
        yield {
            "prompt": problem.prompt,
            "answer": problem.answer,
            "before": result.before.answers[index],
            "solved_before": result.before.solved[index],
            "after": result.after.answers[index],
            "solved_after": result.after.solved[index],
        }
