"""What the conversations are, by content: with it the same recipe over changed files is another run."""

from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.input_hashes import file_hashes
from groundup.recipe.finetune_config import FinetuneConfig


def identity(section: FinetuneConfig, machine: Machine) -> dict[str, Any]:
    """The content identity of every place that conversations come from, by its name. Fetches nothing.

    Raises UserError when a local path matches nothing.
    """
    return {place.name: file_hashes(place, machine) for place in section.conversations}
