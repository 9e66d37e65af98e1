"""What the inputs are, by content: with it the same recipe over changed files is another run."""

from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.place import Place, local_files
from groundup.data.seen import hashes
from groundup.recipe.data import DataSection


def identity(section: DataSection, machine: Machine) -> dict[str, Any]:
    """The content identity of every source, by the source's name.

    Local files count by their SHA-256. Packages are pinned by version and addresses by their text, both with the
    recipe's sha256 where it has one: a package index never replaces a released file. Fetches nothing.
    """
    return {source.name: place_identity(source, machine) for source in section.sources}


def place_identity(place: Place, machine: Machine) -> dict[str, str]:
    """Name -> content identity for the files of one place. Raises UserError when a local path matches nothing."""
    if place.package is not None:
        package = place.package
        return {f"{package.name}=={package.version} {package.form}": package.sha256 or "as released"}
    assert place.path is not None
    if "://" in place.path:
        return {place.path: getattr(place, "sha256", None) or "as published"}
    files = local_files(place.path)
    if not files:
        raise UserError(
            f"source {place.name}: no file matches {place.path}",
            hint="globs: * within a folder, ** through folders",
        )
    return dict(zip((name for name, _ in files), hashes([path for _, path in files], machine), strict=True))
