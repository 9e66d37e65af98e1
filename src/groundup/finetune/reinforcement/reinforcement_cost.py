"""Time and memory of learning from rewards, from the problems themselves: at most, if every answer has its largest length."""

import math
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune.finetune_plan import with_chat_template
from groundup.finetune.training_data.example_sources import split_examples
from groundup.finetune.training_data.input_check import are_local
from groundup.finetune.tuning_memory import tuning_memory
from groundup.interop.base_model import base_model_path, read_base_tokenizer
from groundup.plan.defaults.finetune_defaults import finetuning_defaults
from groundup.plan.derive import SECONDS_PER_HOUR, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.layout.layout_search import MEMORY_FRACTION
from groundup.plan.memory.deployment_estimate import cache_bytes_per_text
from groundup.plan.memory.memory_estimate import device_kind
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.time.stage_time import BYTES_PER_TOKEN, SCORING_FACTOR, token_seconds
from groundup.plan.time.training_speed import TrainingSpeed
from groundup.recipe import Recipe

TEMPLATE_TOKENS = 16
"""Of a chat template around a prompt."""
ANSWERS_AT_ONCE = 64
EVALUATIONS, MAX_EVALUATED = 12, 200
"""Before, ten times during, and after; held-out problems of each."""


def estimate_reinforcement(recipe: Recipe, machine: Machine) -> dict[str, Any] | None:
    """Problems, steps, sampled answers, memory_bytes, and hours at most of [reinforcement]; None without it, or where the files
    are not on this machine. Raises UserError if it does not fit into the memory of budget.hardware.
    """
    config = recipe.reinforcement
    if config is None or not are_local(config.sources):
        return None
    model = resolved_model_config(recipe)
    from groundup.finetune.reinforcement.recipe_rewards import read_usable_problems

    problems, _ = read_usable_problems(config, machine)
    train, validation = split_examples(problems, config.validation_fraction, lambda each: repr(each.messages))
    if recipe.base is not None:
        from groundup.finetune.reinforcement.reinforcement import encode_problems

        tokenizer = with_chat_template(read_base_tokenizer(base_model_path(recipe.base)))
        limit = (config.sequence_length or model.context_length) - config.max_answer_tokens
        train, validation = (encode_problems(part, tokenizer, limit)[0] for part in (train, validation))
    held_out = len(validation)
    characters = sum(len(each["content"]) for problem in problems for each in problem.messages)
    prompt = TEMPLATE_TOKENS + characters / len(problems) / BYTES_PER_TOKEN
    length = min(model.context_length, math.ceil(prompt + config.max_answer_tokens))
    rollouts = max(1, math.ceil((config.epochs or 1.0) * len(train) / config.prompts_per_step))
    answers = config.prompts_per_step * config.group_size
    device = device_spec(recipe.budget.hardware)
    speed = TrainingSpeed(device, relative=recipe.budget.relative_speed)

    def writing(number: int, at_once: int) -> float:
        return math.ceil(number / at_once) * config.max_answer_tokens * token_seconds(model, recipe.budget, at_once)

    step = speed.step_seconds(model, length, answers * length, method=config.method)
    passes = (config.updates_per_rollout > 1) + (config.kl_coefficient > 0)
    prefill = SCORING_FACTOR * speed.step_seconds(model, length, config.prompts_per_step * prompt)
    rollout = writing(answers, ANSWERS_AT_ONCE) + prefill + passes * SCORING_FACTOR * step
    evaluated = min(MAX_EVALUATED, held_out)
    scores = EVALUATIONS * (writing(evaluated, ANSWERS_AT_ONCE // 2) if evaluated else 0.0)
    rank = (
        config.lora_rank
        or finetuning_defaults("generation", config.method, count_parameters(model).total, 0)["lora_rank"]
    )
    base = None if recipe.base is None else base_model_path(recipe.base)
    kind, tuning = device_kind(recipe.budget.hardware), config.model_copy(update={"lora_rank": rank})
    memory = tuning_memory(model, tuning, length, max(1, 2_048 // length), base, kind=kind, whole_answers=True)
    cache = ANSWERS_AT_ONCE * cache_bytes_per_text(model, length, value_bytes=4)
    copy = memory.optimizer / 2 if config.kl_coefficient else 0.0  # trained weights as they were, as large as a moment
    needed, available = memory.total + cache + copy, MEMORY_FRACTION * device.memory_bytes
    if needed > available:
        raise UserError(
            f"[reinforcement] needs {needed / 1e9:.1f} GB, expected at most {available / 1e9:.1f} GB ({recipe.budget.hardware})",
            hint="reinforcement.method=lora, a smaller max_answer_tokens, or another budget.hardware",
        )
    seconds = rollouts * (rollout + config.updates_per_rollout * step) + scores
    return {
        "problems": len(problems),
        "steps": rollouts * config.updates_per_rollout,
        "answers": rollouts * answers,
        "answer_tokens": config.max_answer_tokens,
        "memory_bytes": needed,
        "hours": seconds / SECONDS_PER_HOUR,
    }
