"""What the inputs are, by content: with it the same recipe over changed files is another run."""

from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.place import Place, local_files
from groundup.data.seen import hashes
from groundup.recipe.data import DataSection


def identity(section: DataSection, machine: Machine) -> dict[str, Any]:
    """The content identity of everything outside that [data] names.

    Local files count by their SHA-256. Packages are pinned by version and addresses by their text, both with
    the recipe's sha256 where it has one: a package index never replaces a released file. Fetches nothing.
    """
    found: dict[str, Any] = {source.name: place_identity(source, machine) for source in section.sources}
    others = [*section.previous, *section.decontaminate.sets]
    if section.classifier is not None:
        others += [*section.classifier.good, *section.classifier.bad]
    found |= {
        f"{place.name} ({number})": place_identity(place, machine) for number, place in enumerate(others)
    }
    lists = [Path(words.path).expanduser() for words in section.word_lists]
    if missing := [path for path in lists if not path.is_file()]:
        raise UserError(
            f"word list {missing[0]}: no such file", hint="data.word_lists[].path names a text file"
        )
    if lists:
        found["word lists"] = hashes(lists, machine)
    return found


def place_identity(place: Place, machine: Machine) -> dict[str, str]:
    """Name -> content identity for the files of one place. Raises UserError when a local path matches
    nothing.
    """
    if place.package is not None:
        package = place.package
        return {f"{package.name}=={package.version} {package.form}": package.sha256 or "as released"}
    assert place.path is not None  # the recipe sees to it
    if "://" in place.path:
        return {place.path: getattr(place, "sha256", None) or "as published"}
    files = local_files(place.path)
    if not files:
        raise UserError(
            f"source {place.name}: no file matches {place.path}",
            hint="globs: * within a folder, ** through folders",
        )
    return dict(zip((name for name, _ in files), hashes([path for _, path in files], machine), strict=True))
