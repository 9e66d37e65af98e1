"""What outside files the scores depend on: the user's own questions."""

from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.recipe.evaluate_config import EvaluateConfig


def hash_task_files(section: EvaluateConfig, machine: Machine) -> dict[str, Any]:
    """SHA-256 of each task's file, by the task's name. Raises UserError for a file that is not there."""
    found = {}
    for task in section.tasks:
        if not Path(task.path).is_file():
            raise UserError(
                f"evaluate.tasks: {task.name}: {task.path}: no such file", hint="a file of JSON lines"
            )
        found[task.name] = hash_file(Path(task.path))
    return found
