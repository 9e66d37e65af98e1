"""run.json: one record of a run over its stages, with the hash of each manifest, of the recipe and of the plan.

A manifest holds the hashes of its folder's files, and nothing in the folder holds the manifest's. The record does, and its
own hash beside: an edited metric, a removed stage or a stage of another run is noticed.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint, hash_file
from groundup.artifacts.json_file import read_json_object
from groundup.artifacts.manifest import MANIFEST_FILE, Manifest, changed_files, verify_folder

RECORD_FILE = "run.json"
OWN_FIELDS = {"stage", "fingerprint", "inputs", "provenance"}
"""Fields that tell our manifests, damaged ones too, from files of this name of other software."""

HINT = "groundup verify RUN names every changed file; --from STAGE rebuilds a stage"


def read_record(run_folder: Path) -> dict[str, str] | None:
    """SHA-256 by path relative to `run_folder`; None without a record. Raises UserError if it was edited or damaged."""
    path = run_folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files, stated = content["files"], content["sha256"]
        intact = set(content) == {"files", "sha256"} and fingerprint(files) == stated
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise UserError(
            f"{path}: damaged or edited: its content does not have the hash that it states",
            hint="copy it again; or remove it, and groundup run RECIPE records the files as they are",
        )
    return files


def update_record(run_folder: Path, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Record the files `add` as they are now, and forget the files `remove`; the record changes atomically."""
    old = read_record(run_folder) or {}
    removed = set(remove)
    files = {name: sha256 for name, sha256 in old.items() if name not in removed}
    files |= {name: hash_file(run_folder / name) for name in add}
    if files != old or not (run_folder / RECORD_FILE).is_file():
        text = json.dumps({"files": files, "sha256": fingerprint(files)}, indent=1, sort_keys=True)
        write_atomically(run_folder / RECORD_FILE, (text + "\n").encode())


def manifest_name(folder: Path) -> str:
    """The recorded name of a stage folder's manifest."""
    return f"{folder.name}/{MANIFEST_FILE}"


def recorded_differences(run_folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """One line per recorded file that is missing or has another hash, of the files `names` (default: all)."""
    lines = []
    for name, expected in sorted((read_record(run_folder) or {}).items()):
        path = run_folder / name
        if names is not None and name not in names:
            continue
        if not path.is_file():
            lines.append(f"{name}: missing")
        elif (found := hash_file(path)) != expected:
            lines.append(f"{name}: changed: sha256 {found[:12]}, {RECORD_FILE} has {expected[:12]}")
    return lines


def check_recorded(run_folder: Path, names: Iterable[str] | None = None) -> None:
    """Raise UserError for the first recorded file that is missing or has another hash."""
    if lines := recorded_differences(run_folder, names):
        raise UserError(f"{run_folder}/{lines[0]}", hint=HINT)


def check_artifact(path: Path) -> None:
    """Raise UserError for the first file at `path`, of a finished stage, that has another content than was written.

    `path` is a stage folder or a folder or file in it; files in its subfolders are not checked. Any other path passes.
    """
    path = path.resolve()
    folder = next((each for each in (path, *path.parents[:2]) if (each / MANIFEST_FILE).is_file()), None)
    if folder is None:
        return
    check_recorded(folder.parent, [manifest_name(folder)])
    if len(OWN_FIELDS & read_json_object(folder / MANIFEST_FILE).keys()) < 2:
        return  # of other software
    manifest = Manifest.read(folder)
    assert manifest is not None
    names = [name for name in manifest.files if path in (folder / name, (folder / name).parent)]
    if lines := changed_files(folder, manifest, names):
        raise _damaged(folder, lines[0], manifest.stage, "--no-verify")


def check_stage(folder: Path, stage: str) -> None:
    """Raise UserError for the first file of a finished stage that is not as it was written.

    Checkpoints are not checked: no stage reads them.
    """
    if lines := verify_folder(folder, skip="checkpoints"):
        raise _damaged(folder, lines[0], stage, "--set machine.verify_inputs=false")


def _damaged(folder: Path, line: str, stage: str, option: str) -> UserError:
    return UserError(
        f"{folder.parent}/{line}",
        hint=f"copy the file again, or rebuild the stage: groundup run RECIPE --from {stage}; {option} skips this check",
    )


def verify_run(run_folder: Path, stage_folders: Iterable[Path]) -> list[str]:
    """Compare a run with its record and its manifests; returns one line per difference."""
    record: dict[str, str] | None = None
    try:
        record = read_record(run_folder)
        lines = recorded_differences(run_folder)
        if record is None:
            lines = [f"{RECORD_FILE}: missing, so edited manifests go unnoticed (groundup run RECIPE writes it)"]
    except UserError as error:
        lines = [error.message]
    for folder in stage_folders:
        if not (folder / MANIFEST_FILE).is_file():
            continue
        if record is not None and manifest_name(folder) not in record:
            lines.append(f"{folder.name}: not in {RECORD_FILE}: of another run, or not recorded yet")
        try:
            lines += verify_folder(folder)
        except UserError as error:
            lines.append(error.message)
    return lines
