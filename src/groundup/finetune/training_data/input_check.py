"""Whether the conversations or examples of a recipe can be read: before the first stage runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from groundup.artifacts.machine import Machine
from groundup.data.inputs import local_files
from groundup.plan.stage_support import check_chat
from groundup.recipe import Recipe
from groundup.recipe.finetune_config import FinetuneConfig, FinetuneSourceConfig

if TYPE_CHECKING:
    from groundup.finetune.training_data.read_stats import ReadStats


def check_chat_stage(recipe: Recipe) -> None:
    """Stage chat: what the recipe says, and the files that it names."""
    check_chat(recipe)
    assert recipe.finetune is not None
    count_inputs(recipe.finetune)


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
