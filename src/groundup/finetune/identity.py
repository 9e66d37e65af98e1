"""What the conversations are, by content: with it the same recipe over changed files is another run."""

from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.identity import place_identity
from groundup.recipe.finetune import FinetuneSection


def identity(section: FinetuneSection, machine: Machine) -> dict[str, Any]:
    """The content identity of every place that conversations come from, by its name. Fetches nothing.

    Raises UserError when a local path matches nothing.
    """
    return {place.name: place_identity(place, machine) for place in section.dialogues}
