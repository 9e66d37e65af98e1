"""What learning from rewards will read and cost: before the first stage runs."""

from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.data.inputs import file_hashes
from groundup.finetune.reinforcement.reward_file import function_file
from groundup.finetune.training_data.input_check import are_local, check_lora_targets
from groundup.plan.checks.stage_support import check_row_length
from groundup.plan.derive import resolved_model_config
from groundup.plan.layout.tuning_layout import check_tuning_layout
from groundup.recipe import Recipe
from groundup.recipe.reinforcement_config import ReinforcementConfig


def identity(section: ReinforcementConfig, machine: Machine) -> dict[str, Any]:
    """The content hash of every source by name, and of files of reward functions. Downloads nothing.

    Raises UserError if a local path matches no file.
    """
    hashes: dict[str, Any] = {source.name: file_hashes(source, machine) for source in section.sources}
    for reward in section.all_rewards:
        if reward.function is not None:
            path = function_file(reward, machine.reward_code)
            hashes[f"reward {reward.function}"] = hash_file(path)
    return hashes


def check_reinforcement(recipe: Recipe) -> None:
    """Stage reinforcement: the architecture, the room for answers, the rewards, and the files that the recipe names."""
    config, model = recipe.reinforcement, resolved_model_config(recipe)
    assert config is not None
    check_tuning_layout(recipe, "reinforcement")
    if model.architecture != "decoder":
        raise UserError(
            f"[reinforcement] with an {model.architecture}, expected a decoder", hint="leave [reinforcement] out"
        )
    check_row_length(config.sequence_length, model.context_length)
    check_lora_targets(recipe, config)
    if config.max_answer_tokens >= (length := config.sequence_length or model.context_length):
        raise UserError(
            f"reinforcement.max_answer_tokens = {config.max_answer_tokens} leaves no room for a prompt in {length} tokens",
            hint="set a smaller reinforcement.max_answer_tokens",
        )
    for reward in config.all_rewards:
        if reward.function is not None:
            function_file(reward, recipe.machine.reward_code)
    if recipe.base is not None:
        from groundup.finetune.finetune_plan import with_chat_template
        from groundup.interop.base_model import base_model_path, read_base_tokenizer

        with_chat_template(read_base_tokenizer(base_model_path(recipe.base)))
    if are_local(config.sources):
        from groundup.finetune.reinforcement.recipe_rewards import (
            read_usable_problems,  # torch, which other plans need not
        )

        read_usable_problems(config, Machine(reward_code=recipe.machine.reward_code))
