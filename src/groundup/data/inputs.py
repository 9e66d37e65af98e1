"""Input files: resolve paths, globs, URLs, packages and Common Crawl snapshots to files in the cache; content hashes."""

import glob
import gzip
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.artifacts.storage_errors import describe_storage_error
from groundup.data import archive
from groundup.data.archive import ArchiveMember
from groundup.data.download import copy_stream, download
from groundup.data.hash_cache import cached_hashes
from groundup.data.package_index import find_package
from groundup.data.task_files import READERS
from groundup.recipe.data_config import DataConfig, PackageConfig
from groundup.recipe.evaluate_config import EvaluateConfig

COMMON_CRAWL_URL = "https://data.commoncrawl.org/"
"""See https://commoncrawl.org/get-started."""


class FileSpec(Protocol):
    """Common fields of the recipe's entries that name files."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def package(self) -> PackageConfig | None: ...


@dataclass(frozen=True)
class InputFile:
    """One input file, possibly not downloaded yet.

    Attributes:
        name: independent of this machine: relative to the fixed part of the recipe's path, or the file name.
        path: local path, also before the download.
        url: None for a local file.
        members: glob for the members to read of an archive; None: all.
        is_package: a package archive, whose members have an extra top folder.
    """

    name: str
    path: Path
    url: str | None = None
    members: str | None = None
    is_package: bool = False

    @property
    def is_archive(self) -> bool:
        """Has members."""
        return self.is_package or archive.is_archive(self.name)

    @property
    def strip_top_folder(self) -> bool:
        """Member names start with a folder NAME-VERSION."""
        return self.is_package and not self.name.endswith(".whl")

    def fetch(self, machine: Machine) -> Path:
        """Download the file if it is missing. Raises UserError if that fails."""
        if self.url is None or self.path.exists():
            return self.path
        if urlsplit(self.url).scheme in ("http", "https"):
            return download(self.url, self.path, machine, allowed=machine.allowed_inputs)
        return _fetch_with_fsspec(self.url, self.path, machine)

    def iter_members(self, unsafe_names: list[str] | None = None) -> Iterator[ArchiveMember]:
        """The file itself, or the selected members of an archive; see `archive.iter_members`."""
        if self.is_archive:
            yield from archive.iter_members(
                self.path, self.members, strip_top=self.strip_top_folder, unsafe_names=unsafe_names
            )
        else:
            with self.path.open("rb") as stream:
                yield ArchiveMember(self.name, self.path.stat().st_size, stream)


def resolve_files(spec: FileSpec, machine: Machine, *, seed: int = 0, lazy: bool = False) -> list[InputFile]:
    """Files of a spec, in an order that is the same on every machine.

    Remote files are downloaded now; with `lazy` only packages are, and other files by `InputFile.fetch`. Raises
    UserError if no file matches, if one is missing offline, and for a wrong checksum.
    """
    members = getattr(spec, "members", None)
    for pattern in filter(None, (members, spec.path if spec.package else None)):
        archive.compile_glob(pattern)  # an error of the recipe is said before anything is read
    if spec.package is not None:
        path = _fetch_package(spec.package, machine)
        return [InputFile(path.name, path, members=spec.path or members, is_package=True)]
    assert spec.path is not None  # the recipe schema guarantees it
    if "://" in spec.path:
        found = _resolve_url(spec.path, members, machine)
        if not found:
            raise no_match(spec.name, spec.path)
    else:
        local = require_local_files(spec.name, spec.path)
        found = [InputFile(name, path, members=members) for name, path in local]
    found = _sample_files(found, getattr(spec, "file_fraction", 1.0), seed)
    if (sha256 := getattr(spec, "sha256", None)) is not None:
        _check_sha256(found, sha256, spec.name, machine)
    if not lazy:
        for file in found:
            file.fetch(machine)
    return found


def local_files(pattern: str) -> list[tuple[str, Path]]:
    """(name, path) of the files that a path or glob names, sorted; names are relative to its fixed part.

    A folder stands for all files under it. Links to folders are not followed.
    """
    pattern = os.path.expanduser(pattern)
    base = _glob_root(pattern)
    if glob.has_magic(pattern) and not Path(pattern).exists():
        rest = Path(pattern).relative_to(base).as_posix()
        paths = _glob(base, f"{rest}/*" if rest.endswith("**") else rest)
    else:
        tree = os.walk(base, followlinks=False) if Path(pattern).is_dir() else ()
        paths = [Path(root) / name for root, _, names in tree for name in names] or [Path(pattern)]
    found = {path.relative_to(base): path for path in paths if path.is_file()}
    visible = ((name, path) for name, path in found.items() if not any(part.startswith(".") for part in name.parts))
    return sorted((archive.valid_name(name.as_posix()), path) for name, path in visible)


def _glob(base: Path, pattern: str) -> list[Path]:
    try:
        return list(base.glob(pattern))
    except ValueError as error:
        raise UserError(f"{base / pattern}: {error}", hint=archive.GLOB_HINT) from None


def require_local_files(source: str, pattern: str) -> list[tuple[str, Path]]:
    """`local_files`; raises UserError if there are none."""
    if found := local_files(pattern):
        return found
    raise no_match(source, pattern)


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
    """Task name -> SHA-256 of its file; also of the files of evaluate.text.

    Raises UserError when one does not exist, and for a line that the task cannot use.
    """
    hashes: dict[str, Any] = {}
    for task in section.tasks:
        if not Path(task.path).is_file():
            raise UserError(f"evaluate.tasks: {task.name}: {task.path}: no such file", hint="a JSON Lines file")
        READERS[task.kind](Path(task.path))
        hashes[task.name] = hash_file(Path(task.path))
    if section.text is not None:
        files = dict(require_local_files("evaluate.text", section.text))
        hashes["evaluate.text"] = dict(zip(files, cached_hashes(files.values(), machine), strict=True))
    return hashes


def no_match(source: str, pattern: str) -> UserError:
    """The error for a path or glob that names no file."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return UserError(f"source {source}: no file in the folder {pattern}", hint="hidden files do not count")
    if path.exists():
        return UserError(
            f"source {source}: {pattern} is neither a file nor a folder", hint="pipes cannot be read twice"
        )
    hint = "globs: * within a folder, ** across folders"
    if not path.is_absolute():
        hint = f"paths are relative to the folder in which the command runs, {Path.cwd()}; {hint}"
    return UserError(f"source {source}: no file matches {pattern}", hint=hint)


def _glob_root(pattern: str) -> Path:
    """The folder before the first glob; of a plain path the folder itself or its parent."""
    path = Path(pattern)
    if path.exists() or not glob.has_magic(pattern):
        return path if path.is_dir() else path.parent
    fixed = []
    for part in path.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _sample_files(found: list[InputFile], fraction: float, seed: int) -> list[InputFile]:
    """The files with the smallest hashes: a larger fraction contains a smaller one."""
    if fraction >= 1:
        return found
    count = max(1, round(fraction * len(found)))
    ranked = sorted(found, key=lambda file: hashlib.sha256(f"{seed} {file.name}".encode()).digest())
    chosen = set(ranked[:count])
    return [file for file in found if file in chosen]


def cached_package(package: PackageConfig, machine: Machine) -> Path | None:
    """Archive of a package in the cache, or None."""
    present = (path for path in _package_folder(package, machine).glob("[!.]*") if path.is_file())
    return min(present, default=None)


def _package_folder(package: PackageConfig, machine: Machine) -> Path:
    return machine.cache_dir / "packages" / f"{package.name}-{package.version}-{package.distribution}"


def _fetch_package(package: PackageConfig, machine: Machine) -> Path:
    folder = _package_folder(package, machine)
    path = cached_package(package, machine)
    if path is None:
        if machine.offline:
            raise UserError(
                f"package {package.name} {package.version} ({package.distribution}) is not in the cache {folder}, "
                "and machine.offline is set",
                hint="run once online",
            )
        found = find_package(package)
        target = folder / found.file_name
        expected = package.sha256 or found.sha256
        path = download(found.url, target, machine, sha256=expected, certificates=found.certificates)
    if package.sha256 is not None and (sha256 := _package_hash(path, path.stat().st_ctime_ns)) != package.sha256:
        raise UserError(
            f"{path}: sha256 {sha256}, expected {package.sha256} for package {package.name}",
            hint="remove the file to fetch it again, or correct package.sha256",
        )
    return path


@cache
def _package_hash(path: Path, changed: int) -> str:
    """Once in a process, as several sources may read one package. `changed`: st_ctime_ns, which no program can set back."""
    return hash_file(path)


def _resolve_url(url: str, members: str | None, machine: Machine) -> list[InputFile]:
    parts = urlsplit(url)
    if parts.scheme == "commoncrawl":
        return _common_crawl_files(parts.netloc, parts.path.strip("/") or "warc", machine)
    if parts.scheme in ("http", "https"):
        if glob.has_magic(parts.path):
            raise UserError(f"{url}: globs are not supported in web addresses", hint="make each file a source")
        return [_cached_file(url, members, machine)]
    return _list_with_fsspec(url, members, machine)


def _list_with_fsspec(url: str, members: str | None, machine: Machine) -> list[InputFile]:
    """Files that fsspec finds at a URL: one file, the files of a folder, or the matches of a glob."""
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(url)
        if not glob.has_magic(path):
            single = _cached_file(url, members, machine)
            if single.path.exists() or machine.offline or not file_system.isdir(path):
                return [single]
            path = f"{path.rstrip('/')}/**"
        found = sorted(str(name) for name in file_system.glob(path) if file_system.isfile(name))
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"{url}: cannot be listed: {error}", hint="fsspec's documentation says what each scheme needs"
        ) from None
    base = re.split(r"[^/]*[*?\[]", path, maxsplit=1)[0]
    return [
        _cached_file(file_system.unstrip_protocol(name), members, machine, name.removeprefix(base)) for name in found
    ]


def _cached_file(url: str, members: str | None, machine: Machine, name: str | None = None) -> InputFile:
    file_name = PurePosixPath(urlsplit(url).path).name
    file_name = file_name if file_name.strip(".") else "index"  # a server's listing may end in ..
    path = machine.cache_dir / "files" / hashlib.sha256(url.encode()).hexdigest()[:16] / file_name
    return InputFile(name or file_name, path, url, members)


def _common_crawl_files(snapshot: str, kind: str, machine: Machine) -> list[InputFile]:
    """WARC or WET files of a snapshot such as CC-MAIN-2024-10, from its list of paths."""
    if kind not in ("warc", "wet"):
        raise UserError(f"commoncrawl://{snapshot}/{kind}: expected warc or wet", hint=f"commoncrawl://{snapshot}/warc")
    url = f"{COMMON_CRAWL_URL}crawl-data/{snapshot}/{kind}.paths.gz"
    listing = _cached_file(url, None, machine).fetch(machine)
    lines = gzip.decompress(listing.read_bytes()).decode().split()
    return [_cached_file(COMMON_CRAWL_URL + line, None, machine) for line in lines]


def _fetch_with_fsspec(url: str, target: Path, machine: Machine) -> Path:
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(url)
        is_local = "file" in file_system.protocol or "memory" in file_system.protocol
        if machine.offline and not is_local:
            raise UserError(f"{url} is not in the cache and machine.offline is set", hint="run once online")
        with file_system.open(path, "rb") as stream:
            return copy_stream(stream, target)
    except (OSError, ImportError, ValueError) as error:
        full = describe_storage_error(error, target) if isinstance(error, OSError) else None
        raise full or UserError(
            f"{url}: cannot be read: {error}", hint="fsspec's documentation says what each scheme needs"
        ) from None


def _check_sha256(files: list[InputFile], sha256: str, name: str, machine: Machine) -> None:
    if len(files) > 1:
        raise UserError(
            f"source {name}: sha256 is given but {len(files)} files match", hint="leave sha256 out, or name one file"
        )
    path = files[0].fetch(machine)
    if (actual := hash_file(path)) != sha256:
        raise UserError(
            f"source {name}: {path} has sha256 {actual}, expected {sha256}",
            hint="the file changed, or sha256 is wrong; remove a cached file to fetch it again",
        )
