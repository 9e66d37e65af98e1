"""Whether the conversations or examples of a recipe can be read: before the first stage runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from groundup.artifacts.machine import Machine
from groundup.data.inputs import local_files, no_match
from groundup.plan.checks.stage_support import check_chat
from groundup.plan.derive import resolved_model_config
from groundup.recipe import Recipe
from groundup.recipe.finetune_config import FinetuneConfig, FinetuneSourceConfig
from groundup.recipe.tuning_config import TuningConfig

if TYPE_CHECKING:
    from groundup.finetune.training_data.read_stats import ReadStats

ALL = ("all",)
"""lora_targets that every model has."""


def check_chat_stage(recipe: Recipe) -> None:
    """Stage chat: what the recipe says, and the files that it names."""
    check_chat(recipe)
    assert recipe.finetune is not None
    check_lora_targets(recipe, recipe.finetune)
    count_inputs(recipe.finetune)


def check_lora_targets(recipe: Recipe, tuning: TuningConfig) -> None:
    """Raises UserError for `lora_targets` that the recipe's model has not."""
    if tuning.method != "full" and tuning.lora_targets != ALL:
        from groundup.finetune.lora import target_layers  # torch, which `plan` of other recipes needs not
        from groundup.model.serialization import build_meta_model

        target_layers(build_meta_model(resolved_model_config(recipe)), tuning.lora_targets)


def missing_inputs(recipe: Recipe) -> list[tuple[str, str]]:
    """(knob and name, path) of the files that the recipe reads and this machine does not have."""
    named: list[tuple[str, Any]] = []
    if recipe.data is not None:
        named += [("data.sources", source) for source in recipe.data.sources]
    if recipe.finetune is not None:
        named += [("finetune.conversations", source) for source in recipe.finetune.conversations]
        named += [("finetune.examples", source) for source in recipe.finetune.examples]
    for table in ("preference", "reinforcement"):
        if (section := getattr(recipe, table)) is not None:
            named += [(f"{table}.sources", source) for source in section.sources]
    missing = [
        (f"{knob}, {source.name}", source.path)
        for knob, source in named
        if source.package is None and "://" not in source.path and not local_files(source.path)
    ]
    text = None if recipe.evaluate is None else recipe.evaluate.text
    return missing + ([("evaluate.text", text)] if text and not local_files(text) else [])


def check_missing_inputs(recipe: Recipe) -> list[str]:
    """The files that are not on this machine: a plan may be made elsewhere. With [base], whose model is here: UserError."""
    missing = missing_inputs(recipe)
    if missing and recipe.base is not None:
        raise no_match(*missing[0])
    return [f"{name}: {path}" for name, path in missing]


def count_inputs(config: FinetuneConfig) -> "ReadStats | None":
    """What is read and kept of the files on this machine; None if some are in packages or on other machines, or none are named.

    Raises UserError if a file cannot be read, or nothing is left. A run refuses missing files; a plan may be made elsewhere.
    """
    sources = [*config.conversations, *config.examples]
    if not sources or not are_local(sources):
        return None
    from groundup.finetune.training_data.conversations import (
        read_conversations,  # numpy, which `plan` of other recipes needs not
    )
    from groundup.finetune.training_data.example_sources import read_examples

    if config.task == "generation":
        return read_conversations(config.conversations, Machine(), config.doubled_roles)[1]
    return read_examples(config.examples, Machine())[1]


def are_local(sources: Iterable[FinetuneSourceConfig]) -> bool:
    """Whether all sources name files of this machine."""
    return all(
        not source.package and "://" not in (source.path or "") and local_files(source.path or "") for source in sources
    )
