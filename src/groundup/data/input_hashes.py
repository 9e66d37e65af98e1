"""Input hashes: content of all files that a recipe reads, so that changed files change the fingerprint."""

from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.data.hash_cache import cached_hashes
from groundup.data.inputs import FileSpec, require_local_files
from groundup.recipe.data_config import DataConfig
from groundup.recipe.evaluate_config import EvaluateConfig


def input_hashes(config: DataConfig, machine: Machine) -> dict[str, Any]:
    """Content hashes of all files that [data] names, by source name; part of the stage's fingerprint.

    Local files: SHA-256. Packages and URLs: version or address, with the recipe's sha256 if given; a package index
    never replaces a released file. Downloads nothing.
    """
    hashes: dict[str, Any] = {source.name: file_hashes(source, machine) for source in config.sources}
    others = [*config.dedup_against, *config.decontaminate.evaluation_sets]
    if config.classifier is not None:
        others += [*config.classifier.positive, *config.classifier.negative]
    hashes |= {f"{spec.name} ({index})": file_hashes(spec, machine) for index, spec in enumerate(others)}
    lists = [Path(words.path).expanduser() for words in config.word_lists]
    if missing := [path for path in lists if not path.is_file()]:
        raise UserError(
            f"data.word_lists[].path: no file {missing[0]}", hint="it names a text file, one entry per line"
        )
    if lists:
        hashes["word lists"] = cached_hashes(lists, machine)
    return hashes


def file_hashes(spec: FileSpec, machine: Machine) -> dict[str, str]:
    """Content hash by file name for one spec. Raises UserError if a local path matches no file."""
    if spec.package is not None:
        package = spec.package
        return {f"{package.name}=={package.version} {package.distribution}": package.sha256 or "as released"}
    assert spec.path is not None  # the recipe schema guarantees it
    if "://" in spec.path:
        return {spec.path: getattr(spec, "sha256", None) or "as published"}
    files = dict(require_local_files(spec.name, spec.path))
    return dict(zip(files, cached_hashes(files.values(), machine), strict=True))


def hash_task_files(section: EvaluateConfig, machine: Machine) -> dict[str, Any]:
    """Task name -> SHA-256 of its file. Raises UserError when a file does not exist."""
    hashes = {}
    for task in section.tasks:
        if not Path(task.path).is_file():
            raise UserError(f"evaluate.tasks: {task.name}: {task.path}: no such file", hint="a JSON Lines file")
        hashes[task.name] = hash_file(Path(task.path))
    return hashes
