"""From what a recipe calls a place (a path with globs, an address, a package's member) to files on this machine."""

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data import archive
from groundup.data.archive import Member
from groundup.data.download import copy, download
from groundup.data.package_index import ask_pip, find
from groundup.data.seen import hash_once
from groundup.recipe.data import Package


class Place(Protocol):
    """What a recipe's entries that name files have in common."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def package(self) -> Package | None: ...


@dataclass(frozen=True)
class Input:
    """One file on this machine, named as it will be in documents: never by where it lies.

    Attributes:
        name: relative to the fixed part of the recipe's path, or the archive's own name.
        path: where it lies.
        members: which members of it to read, when it is an archive; None is all of them.
        is_package: the names inside have one top folder too many.
    """

    name: str
    path: Path
    members: str | None = None
    is_package: bool = False

    def open(self) -> Iterator[Member]:
        """The file, or the members of it that are asked for, one after the other."""
        if self.is_package or archive.is_archive(self.name):
            top = self.is_package and not self.name.endswith(".whl")
            yield from archive.members(self.path, self.members, strip_top=top)
        else:
            with self.path.open("rb") as stream:
                yield Member(self.name, self.path.stat().st_size, stream)


def resolve(place: Place, machine: Machine) -> list[Input]:
    """The files of a place, fetched where needed, in an order that is the same everywhere.

    Raises UserError when there are none, when one is missing offline, and when a checksum is wrong.
    """
    if place.package is not None:
        return [Input(*_package(place.package, machine), members=place.path, is_package=True)]
    assert place.path is not None  # the recipe sees to it
    sha256 = getattr(place, "sha256", None)
    if "://" in place.path:
        found = _remote(place.path, machine, sha256)
    else:
        found = [Input(name, path) for name, path in local_files(place.path)]
    if not found:
        raise UserError(
            f"source {place.name}: no file matches {place.path}",
            hint="globs: * within a folder, ** through folders",
        )
    if sha256 is not None:
        _check(found, sha256, place.name, machine)
    return found


def local_files(pattern: str) -> list[tuple[str, Path]]:
    """Files that a path with globs names, with their names relative to its fixed part, sorted by name.

    A folder stands for all files under it; folders that are links are not followed, so no loop can hold us.
    """
    pattern = os.path.expanduser(pattern)
    base = _fixed_part(pattern)
    paths = (
        [Path(match) for match in glob.glob(pattern, recursive=True)]
        if glob.has_magic(pattern)
        else [Path(pattern)]
    )
    found: dict[str, Path] = {}
    for path in paths:
        for file in _walk(path) if path.is_dir() and not glob.has_magic(pattern) else [path]:
            if file.is_file():
                found[PurePosixPath(file).relative_to(base).as_posix() if file != base else file.name] = file
    return sorted(found.items())


def _walk(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, followlinks=False):
        yield from (Path(root) / name for name in names)


def _fixed_part(pattern: str) -> Path:
    """The folder before the first glob; for a plain path the folder that it is, or the one that holds it."""
    if not glob.has_magic(pattern):
        path = Path(pattern)
        return path if path.is_dir() else path.parent
    fixed = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _package(package: Package, machine: Machine) -> tuple[str, Path]:
    folder = machine.cache / "packages" / f"{package.name}-{package.version}-{package.form}"
    present = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    if not present:
        if machine.offline:
            raise UserError(
                f"package {package.name} {package.version} ({package.form}) is not in the cache and machine.offline is set",
                hint="run once online",
            )
        found = find(package)
        expected = package.sha256 or found.sha256
        present = [
            download(
                found.url,
                folder / found.file_name,
                machine,
                sha256=expected,
                certificates=ask_pip().certificates,
            )
        ]
    path = present[0]
    if package.sha256 is not None and (sha256 := hash_once(path, machine)) != package.sha256:
        raise UserError(
            f"{path}: sha256 {sha256}, expected {package.sha256} for package {package.name}",
            hint="remove the file to fetch it again, or correct package.sha256",
        )
    return path.name, path


def _remote(url: str, machine: Machine, sha256: str | None) -> list[Input]:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        if glob.has_magic(urlsplit(url).path):
            raise UserError(
                f"{url}: a web address cannot hold globs", hint="list the files as sources of their own"
            )
        target = _cached(url, machine)
        return [Input(target.name, download(url, target, machine, sha256=sha256))]
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(url)
        if machine.offline and "file" not in file_system.protocol:
            target = _cached(url, machine)
            if not target.exists():
                raise UserError(
                    f"{url} is not in the cache and machine.offline is set", hint="run once online"
                )
            return [Input(target.name, target)]
        names = sorted(file_system.glob(path)) if glob.has_magic(path) else [path]
        inputs = []
        for name in names:
            if file_system.isfile(name):
                target = _cached(file_system.unstrip_protocol(name), machine)
                if not target.exists():
                    with file_system.open(name, "rb") as stream:
                        copy(stream, target)
                inputs.append(Input(target.name, target))
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"{url}: cannot be read: {error}", hint="fsspec's documentation lists what each scheme needs"
        ) from None
    return inputs


def _cached(url: str, machine: Machine) -> Path:
    name = PurePosixPath(urlsplit(url).path).name or "index"
    return machine.cache / "files" / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _check(found: list[Input], sha256: str, name: str, machine: Machine) -> None:
    if len(found) > 1:
        raise UserError(
            f"source {name}: sha256 is given but {len(found)} files match",
            hint="leave sha256 out, or name one file",
        )
    if (actual := hash_once(found[0].path, machine)) != sha256:
        raise UserError(
            f"source {name}: {found[0].path} has sha256 {actual}, expected {sha256}",
            hint="the file changed, or sha256 is wrong",
        )
