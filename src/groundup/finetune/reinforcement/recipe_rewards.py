"""The rewards and the problems of a recipe."""

from collections.abc import Iterable
from functools import partial

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.evaluate.code_sandbox import check_sandbox
from groundup.finetune.reinforcement.reward_file import function_file
from groundup.finetune.reinforcement.rewards import (
    Problem,
    RewardFunction,
    WeightedReward,
    check_pattern,
    exact_answer,
    has_format,
    load_function,
    matches_pattern,
    short_enough,
    unit_tests,
)
from groundup.finetune.training_data.problems import read_problems
from groundup.finetune.training_data.read_stats import ReadStats
from groundup.recipe.reinforcement_config import ReinforcementConfig, RewardConfig

NEEDED_FIELDS = {"answer": "answer", "tests": "tests"}
"""Kinds of rewards that need a field of the problem."""


def read_usable_problems(config: ReinforcementConfig, machine: Machine) -> tuple[list[Problem], ReadStats]:
    """The problems of the recipe. Raises UserError if a source cannot be read, a reward cannot be computed, or no problem has
    the answer or the tests that the rewards need."""
    build_reward(config.all_rewards, machine)
    problems, stats = read_problems(config.sources, machine, config.system_prompt)
    for kind in sorted({reward.kind for reward in config.all_rewards} & NEEDED_FIELDS.keys()):
        has = (lambda each: each.answer) if kind == "answer" else (lambda each: each.fields.get("tests"))
        missing = [each for each in problems if not has(each)]
        if len(missing) == len(problems):
            names = ", ".join(sorted({name for each in problems[:10] for name in each.fields})) or "none"
            raise UserError(
                f"rewards of kind {kind} need the field {NEEDED_FIELDS[kind]}, which no problem has",
                hint=f"other fields: {names}; `columns` of a source names them: columns = {{ prompt = ..., {kind} = ... }}",
            )
        for each in missing:
            stats.kept -= 1
            stats.drop("no_answer", each.prompt, "")
        problems = [each for each in problems if has(each)]
    return problems, stats


def build_reward(configs: Iterable[RewardConfig], machine: Machine) -> WeightedReward:
    """The sum of the rewards. Raises UserError for one that cannot be computed, or that the machine does not allow."""
    parts: list[tuple[str, float, RewardFunction]] = []
    for config in configs:
        function: RewardFunction
        if config.kind == "answer":
            function = exact_answer
        elif config.kind in ("regex", "format"):
            rule = matches_pattern if config.kind == "regex" else has_format
            limits = {"timeout_seconds": config.timeout_seconds}
            function = partial(rule, pattern=check_pattern(config.pattern or ""), **limits)
        elif config.kind == "length":
            function = partial(short_enough, max_characters=config.max_characters or 1)
        elif config.kind == "tests":
            check_sandbox()
            function = partial(unit_tests, timeout_seconds=config.timeout_seconds)
        else:
            function_file(config, machine.reward_code)
            function = load_function(config.function or "")
        same = sum(name.rstrip("0123456789") == config.kind for name, _, _ in parts)
        parts.append((f"{config.kind}{same + 1}" if same else config.kind, config.weight, function))
    return WeightedReward(tuple(parts))
