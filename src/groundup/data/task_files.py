"""Tasks with known answers: JSON Lines files of questions with choices, or of prompts with completions."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import parse_json, shorten
from groundup.recipe.evaluate_config import TaskConfig, TaskKind

TASK_KEYS: dict[TaskKind, tuple[str, ...]] = {
    "multiple_choice": ("question", "choices", "answer"),
    "completion": ("prompt", "completion"),
}


@dataclass(frozen=True)
class Question:
    """`answer` is the index of the right one of `choices`."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def cluster(self) -> Hashable:
        """Equal for copies of a question, which do not count as independent items."""
        return self.question, tuple(sorted(self.choices))


@dataclass(frozen=True)
class Completion:
    """`completion` is what should follow `prompt`."""

    prompt: str
    completion: str

    @property
    def cluster(self) -> Hashable:
        """Equal for copies of a prompt."""
        return self.prompt, self.completion


def read_questions(path: Path) -> list[Question]:
    """{"question": ..., "choices": [...], "answer": index} a line. Raises UserError, naming the line."""
    found = []
    for location, entry in _read_lines(path, TASK_KEYS["multiple_choice"]):
        choices, answer = entry["choices"], entry["answer"]
        if not (isinstance(choices, list) and len(choices) > 1 and all(isinstance(c, str) and c for c in choices)):
            raise UserError(f"{location}: choices = {shorten(choices)}, expected a list of at least two texts")
        if not (type(answer) is int and 0 <= answer < len(choices)):
            raise UserError(f"{location}: answer = {shorten(answer)}, expected 0 to {len(choices) - 1}")
        found.append(Question(entry["question"], tuple(choices), answer))
    return found


def read_completions(path: Path) -> list[Completion]:
    """{"prompt": ..., "completion": ...} a line. Raises UserError, naming the line."""
    lines = _read_lines(path, TASK_KEYS["completion"])
    return [Completion(entry["prompt"], entry["completion"].strip()) for _, entry in lines]


READERS = {"multiple_choice": read_questions, "completion": read_completions}
"""By the kind of a task."""


def task_of_file(path: Path, *, apply_chat_template: bool = False, delimiter: str = " ") -> TaskConfig:
    """The task in a file, whose kind its first line says. Raises UserError for a line of neither kind."""
    location, item = next(_read_lines(path, ()))
    for kind, keys in TASK_KEYS.items():
        if all(key in item for key in keys):
            return TaskConfig(
                name=path.stem, kind=kind, path=str(path), delimiter=delimiter, apply_chat_template=apply_chat_template
            )
    expected = "; or ".join(", ".join(keys) for keys in TASK_KEYS.values())
    raise UserError(f"{location}: fields {', '.join(item) or 'none'}", hint=f"expected {expected}")


def item_texts(path: Path) -> list[tuple[str, str]]:
    """(number, text) of each item of a task file: the question with its right answer, or the prompt with its completion."""
    if task_of_file(path).kind == "completion":
        return [(str(n), f"{item.prompt} {item.completion}") for n, item in enumerate(read_completions(path), 1)]
    return [(str(n), f"{item.question} {item.choices[item.answer]}") for n, item in enumerate(read_questions(path), 1)]


def _read_lines(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line number, object) for each line of a task file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON has other line breaks inside of texts
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint="expected a JSON Lines file") from None
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path}: no items", hint="one JSON object per line, with " + ", ".join(keys))
    for location, line in numbered:
        item = parse_json(line, location)
        if not isinstance(item, dict) or any(key not in item for key in keys):
            raise UserError(f"{location}: expected an object with {', '.join(keys)}")
        for key in keys:
            if key not in ("choices", "answer") and not (isinstance(item[key], str) and item[key].strip()):
                raise UserError(f"{location}: {key} = {shorten(item[key])}, expected text")
        yield location, item
