"""manifest.json: how a folder was made, from which inputs, and the hash of every file in it.

It is written last, so a folder with a manifest is complete.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict
from typing_extensions import TypedDict

from groundup.artifacts.directory import result_files, write_atomically
from groundup.artifacts.fingerprint import hash_files
from groundup.artifacts.json_file import read_json_file

MANIFEST_FILE = "manifest.json"


class FileEntry(TypedDict):
    """Size and hash of a file of the folder."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        stage: name of the stage that wrote the folder.
        version: version of the stage's code; raised when the same recipe would give a different result.
        fingerprint: hash of the recipe sections, the inputs' fingerprints and the version.
        sections: the recipe sections that the stage reads, with derived values.
        inputs: fingerprints of the input stages, by stage name.
        files: relative path -> {"bytes": int, "sha256": str}.
        metrics: measurements of the stage, JSON values only; the source of the report.
        provenance: package versions, device, seconds, commit; not fingerprinted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stage: str
    version: int
    fingerprint: str
    sections: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write into `folder`."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / MANIFEST_FILE, (text + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of `folder`; None if there is none. Raises UserError if it is not readable."""
        path = folder / MANIFEST_FILE
        return read_json_file(cls, path, hint=f"remove {folder} and run again") if path.exists() else None


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file of the result in `folder` except the manifest, sorted by path."""
    paths = [path for path in result_files(folder) if path.name != MANIFEST_FILE]
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hash_files(paths), strict=True)
    }


def verify_folder(folder: Path, skip: str | None = None) -> list[str]:
    """Compare the files of a folder with its manifest, except those under `skip`; returns one line per difference.

    >>> verify_folder(Path("runs/quickstart/04-base"))
    []
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        return [f"{folder.name}: no {MANIFEST_FILE}: incomplete"]
    found = {path.relative_to(folder).as_posix() for path in result_files(folder)} - {MANIFEST_FILE}
    extra, recorded = (
        [name for name in names if name.partition("/")[0] != skip]
        for names in (found - manifest.files.keys(), manifest.files)
    )
    lines = [f"{folder.name}/{name}: not in the manifest" for name in sorted(extra)]
    return lines + changed_files(folder, manifest, recorded)


def changed_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """One line per file of `names` that is missing or has another content than the manifest says."""
    names = sorted(names)
    present = [name for name in names if (folder / name).is_file()]
    lines = [f"{folder.name}/{name}: missing" for name in names if name not in set(present)]
    for name, sha256 in zip(present, hash_files(folder / name for name in present), strict=True):
        expected = manifest.files[name]
        if sha256 != expected["sha256"]:
            lines.append(
                f"{folder.name}/{name}: changed: sha256 {sha256[:12]} ({(folder / name).stat().st_size} bytes), "
                f"expected {expected['sha256'][:12]} ({expected['bytes']} bytes)"
            )
    return lines
