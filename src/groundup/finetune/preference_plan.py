"""What preference tuning will read and cost: before the first stage runs."""

from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.inputs import file_hashes
from groundup.finetune.input_check import are_local
from groundup.plan.derive import resolved_model_config
from groundup.plan.stage_support import check_row_length
from groundup.recipe import Recipe
from groundup.recipe.preference_config import PreferenceConfig


def identity(section: PreferenceConfig, machine: Machine) -> dict[str, Any]:
    """The content hash of every source by name, so that changed files make a new run. Downloads nothing.

    Raises UserError if a local path matches no file.
    """
    return {source.name: file_hashes(source, machine) for source in section.sources}


def check_preference(recipe: Recipe) -> None:
    """Stage preference: the architecture, the chat template, and the files that the recipe names. Raises UserError."""
    config, model = recipe.preference, resolved_model_config(recipe)
    assert config is not None
    if model.architecture != "decoder":
        raise UserError(f"[preference] with an {model.architecture}, expected a decoder", hint="leave [preference] out")
    check_row_length(config.sequence_length, model.context_length)
    if recipe.base is not None:
        from groundup.finetune.finetune_plan import with_chat_template
        from groundup.interop.base_model import base_model_path, read_base_tokenizer

        with_chat_template(read_base_tokenizer(base_model_path(recipe.base)))
    if are_local(config.sources):
        from groundup.finetune.preference_stage import read_items  # torch, which `plan` of other recipes needs not

        read_items(config, Machine())
