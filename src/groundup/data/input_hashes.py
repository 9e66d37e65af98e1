"""What the inputs are, by content: with it the same recipe over changed files is another run."""

from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.data.hash_cache import cached_hashes
from groundup.data.inputs import FileSpec, local_files
from groundup.recipe.data_config import DataConfig
from groundup.recipe.evaluate_config import EvaluateConfig


def input_hashes(section: DataConfig, machine: Machine) -> dict[str, Any]:
    """The content identity of everything outside that [data] names.

    Local files count by their SHA-256. Packages are pinned by version and addresses by their text, both with
    the recipe's sha256 where it has one: a package index never replaces a released file. Fetches nothing.
    """
    found: dict[str, Any] = {source.name: file_hashes(source, machine) for source in section.sources}
    others = [*section.dedup_against, *section.decontaminate.evaluation_sets]
    if section.classifier is not None:
        others += [*section.classifier.positive, *section.classifier.negative]
    found |= {f"{place.name} ({number})": file_hashes(place, machine) for number, place in enumerate(others)}
    lists = [Path(words.path).expanduser() for words in section.word_lists]
    if missing := [path for path in lists if not path.is_file()]:
        raise UserError(
            f"word list {missing[0]}: no such file", hint="data.word_lists[].path names a text file"
        )
    if lists:
        found["word lists"] = cached_hashes(lists, machine)
    return found


def file_hashes(spec: FileSpec, machine: Machine) -> dict[str, str]:
    """Name -> content identity for the files of one place. Raises UserError when a local path matches
    nothing.
    """
    if spec.package is not None:
        package = spec.package
        return {f"{package.name}=={package.version} {package.distribution}": package.sha256 or "as released"}
    assert spec.path is not None  # the recipe sees to it
    if "://" in spec.path:
        return {spec.path: getattr(spec, "sha256", None) or "as published"}
    files = local_files(spec.path)
    if not files:
        raise UserError(
            f"source {spec.name}: no file matches {spec.path}",
            hint="globs: * within a folder, ** through folders",
        )
    return dict(
        zip((name for name, _ in files), cached_hashes([path for _, path in files], machine), strict=True)
    )


def hash_task_files(section: EvaluateConfig, machine: Machine) -> dict[str, Any]:
    """Task name -> SHA-256 of its file. Raises UserError when a file does not exist."""
    hashes = {}
    for task in section.tasks:
        if not Path(task.path).is_file():
            raise UserError(
                f"evaluate.tasks: {task.name}: {task.path}: no such file", hint="a JSON Lines file"
            )
        hashes[task.name] = hash_file(Path(task.path))
    return hashes
