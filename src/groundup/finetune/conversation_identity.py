"""Content hash of the conversation files, so that changed files make a new run."""

from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.inputs import file_hashes
from groundup.recipe.finetune_config import FinetuneConfig


def identity(section: FinetuneConfig, machine: Machine) -> dict[str, Any]:
    """The content hash of every conversation source, by name. Downloads nothing.

    Raises UserError if a local path matches no file.
    """
    return {place.name: file_hashes(place, machine) for place in section.conversations}
