"""The record that makes a folder an artifact: what made it, from what, and what is in it.

A manifest is written last. A folder that has one is complete; `verify` says whether it still is what it was.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        stage: name of the stage that wrote the folder.
        version: the stage's version; it is raised when the same recipe would give another result.
        fingerprint: of the recipe sections, the inputs' fingerprints and the version together.
        sections: the recipe sections that the stage was allowed to read, derived values included.
        inputs: the fingerprints of the artifacts it read, by stage name.
        files: for each file, relative path -> {"bytes": int, "sha256": str}.
        metrics: what the stage measured; JSON values only. The report is made from these.
        provenance: recorded, never part of the identity: packages, device, seconds, commit, when.
    """

    stage: str
    version: int
    fingerprint: str
    sections: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write into `folder`; the last thing that happens before the folder gets its final name."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of `folder`, or None where there is none. Raises UserError where it cannot be read."""
        path = folder / MANIFEST_FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not a readable manifest ({error})", hint=f"remove {folder} and run again"
            ) from None


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and hash of every file under `folder`, the manifest aside, in a stable order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in paths
    }


def verify_folder(folder: Path) -> list[str]:
    """Compare a complete folder with its manifest, byte for byte.

    Returns one line per difference (missing, changed, unexpected); an empty list means intact.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        return [f"{folder.name}: no {MANIFEST_FILE}: incomplete"]
    found = list_files(folder)
    lines = [f"{folder.name}/{name}: missing" for name in sorted(manifest.files.keys() - found.keys())]
    lines += [
        f"{folder.name}/{name}: not in the manifest" for name in sorted(found.keys() - manifest.files.keys())
    ]
    for name in sorted(found.keys() & manifest.files.keys()):
        if found[name]["sha256"] != manifest.files[name]["sha256"]:
            expected, got = manifest.files[name], found[name]
            lines.append(
                f"{folder.name}/{name}: changed: sha256 {got['sha256'][:12]} ({got['bytes']} bytes), "
                f"expected {expected['sha256'][:12]} ({expected['bytes']} bytes)"
            )
    return lines
