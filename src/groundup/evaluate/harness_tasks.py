"""Tasks of lm-evaluation-harness by name, each checked when it is loaded.

The harness reads all of its 14,000 YAML files before it knows the first name, half a minute. Here their texts are searched for
the names asked for, in under a second, and only the folders that mention them are read.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval.tasks  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.tasks._index import Kind  # pyright: ignore[reportMissingImports]

from groundup.artifacts.errors import UserError

SANDBOXED_TASKS = ("humaneval", "mbpp")
"""Beginnings of the names of tasks that run programs by the metric `code_eval` alone."""

NAME = re.compile(
    r"""^["']?(?:task|group|tag)["']?:[ \t]*["']?([^\s"'\[#]+)"""  # task: NAME
    r"""|^[ \t]*-[ \t]+(?:(?:task|group):[ \t]*)?["']?([^\s"'#:]+)["']?[ \t]*$""",  # an element of a list of tags or tasks
    re.MULTILINE,
)


class HarnessTasks(TaskManager):  # pyright: ignore[reportUntypedBaseClass]
    """The harness's tasks in some of its folders. `load` raises UserError for what cannot be run as asked."""

    def __init__(self, folders: Iterable[str], num_fewshot: int | None):
        root = _tasks_folder()
        # Of two tasks with one name the harness keeps the first one in the order of paths, and here the last.
        places = sorted((root / folder for folder in folders), key=lambda place: f"{place.as_posix()}/", reverse=True)
        super().__init__(include_defaults=False, include_path=list(places))
        self.num_fewshot = num_fewshot

    def load(self, names: Sequence[str]) -> Any:
        """Tasks and groups called `names`, with their datasets."""
        for name in sorted(_with_members(self, names)):
            entry = self.task_index.get(name)
            if entry is not None and (entry.cfg or {}).get("unsafe_code") and not name.startswith(SANDBOXED_TASKS):
                raise UserError(
                    f"{name}: runs programs that the model writes outside of the sandbox",
                    hint=f"tasks with programs that run in it: {', '.join(SANDBOXED_TASKS)}",
                )
        try:
            loaded = super().load(list(names))
        except ImportError as error:
            raise UserError(f"a task needs a package: {error}", hint="pip install it") from None
        for name, task in loaded["tasks"].items():
            _check_examples(name, task, self.num_fewshot)
        return loaded


def harness_tasks(names: Sequence[str], num_fewshot: int | None = None) -> HarnessTasks:
    """The tasks, groups and tags called `names`, with the members of groups.

    Raises UserError for a name that is none of them, and without names.
    """
    if not names:
        raise UserError("no names of tasks", hint="--tasks hellaswag,arc_easy")
    mentions = _folders_by_name()
    folders, missing = set[str](), set(names)
    while new := {folder for name in missing for folder in mentions.get(name, ())} - folders:
        folders |= new
        tasks = HarnessTasks(folders, num_fewshot)
        missing = {name for name in _with_members(tasks, names) if name not in tasks.task_index}
    if unknown := [name for name in names if not folders or name not in tasks.task_index]:
        close = get_close_matches(unknown[0], mentions, n=3)
        raise UserError(
            f"{unknown[0]}: no task of lm-evaluation-harness",
            hint=f"did you mean {' or '.join(close)}?" if close else "`lm-eval ls tasks` lists its names",
        )
    return tasks


def _with_members(tasks: HarnessTasks, names: Iterable[str]) -> set[str]:
    """The names, and those of the members of groups and tags among them."""
    found, pending = set[str](), list(names)
    while pending:
        if (name := pending.pop()) in found:
            continue
        found.add(name)
        entry = tasks.task_index.get(name)
        if entry is not None:
            pending += _members((entry.cfg or {}).get("task"))
            pending += entry.tags if entry.kind is Kind.TAG else ()
    return found


def _members(members: Any) -> Iterator[str]:
    """The names in a group's list of members, inline groups included."""
    for member in members if isinstance(members, list) else ():
        if isinstance(member, str):
            yield member
        else:
            yield from (member[key] for key in ("group", "task") if isinstance(member.get(key), str))
            yield from _members(member.get("task"))


@lru_cache(maxsize=1)
def _folders_by_name() -> dict[str, set[str]]:
    """By name of a task, group or tag, the folders of the harness that mention it; read once in a process."""
    root = _tasks_folder()
    folders = defaultdict[str, set[str]](set)
    for place, _, files in os.walk(root):
        relative = Path(place).relative_to(root).parts
        for file in files if relative else ():
            if file.endswith(".yaml") or "." not in file:  # files to include have no suffix
                text = Path(place, file).read_text(encoding="utf-8", errors="replace")
                for match in NAME.finditer(text):
                    folders[match[1] or match[2]].add(relative[0])
    return dict(folders)


def _tasks_folder() -> Path:
    return Path(lm_eval.tasks.__file__).parent


def _check_examples(name: str, task: Any, num_fewshot: int | None) -> None:
    """Raises UserError for solved examples of a split that the dataset does not have."""
    default = task.config.num_fewshot
    count = default if num_fewshot is None or default == 0 else num_fewshot
    if not count or not hasattr(task, "fewshot_docs"):
        return
    try:
        found = len(list(islice(task.fewshot_docs() or (), count)))
    except (KeyError, TypeError, ValueError):
        found = 0
    if found < count:
        raise UserError(
            f"{name}: {count} solved examples before each question, but its dataset has {found} in the split for them",
            hint="--num-fewshot 0, or a folder with the split train",
        )
