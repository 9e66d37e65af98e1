"""A run folder in one plain dictionary: its plan, and what the manifests of its finished stages say.

Only manifests are read, and a few small files that stages write to be told: the loss of each step, examples of what
was dropped and of what repeats, and the plan. A missing stage is missing here too; what the report says of it is then left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest

PLAN, RECIPE = "plan.json", "recipe.json"
REPORT_STAGE = "report"
MAX_EXAMPLES = 200
"""Dropped documents that are read for each source, and clusters of duplicates, at most."""


def collect_run(run: Path, folders: Sequence[Path] | None = None) -> dict[str, Any]:
    """{"name", "plan", "recipe", "stages": {stage: ...}, "steps": [...], "dropped": {file: [...]}, "clusters": [...]}
    of a run.

    Of its finished stages those in `folders`, or all.

    Raises UserError when `run` is no folder, or when a file in it cannot be read.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder", hint="groundup run RECIPE makes one")
    stages = {}
    here = [path for path in run.iterdir() if path.is_dir() and path.suffix not in (".partial", ".old")]
    for folder in sorted(here if folders is None else folders):
        manifest = Manifest.read(folder)
        if manifest is not None and manifest.stage != REPORT_STAGE:
            stages[manifest.stage] = _stage(folder, manifest)
    plan = read_json(run / PLAN, {})
    return {
        "name": plan.get("name", run.name),
        "plan": plan,
        "recipe": read_json(run / RECIPE, {}),
        "stages": stages,
        "steps": _lines(run / stages["base"]["folder"] / "steps.jsonl") if "base" in stages else [],
        "dropped": _dropped(run / stages["data"]["folder"] / "dropped") if "data" in stages else {},
        "clusters": _lines(run / stages["data"]["folder"] / "clusters.jsonl", MAX_EXAMPLES)
        if "data" in stages
        else [],
    }


def stage_metrics(facts: dict[str, Any], stage: str) -> dict[str, Any]:
    """What `stage` measured; empty when it is not there."""
    return facts["stages"].get(stage, {}).get("metrics", {})


def stage_seconds(facts: dict[str, Any], stage: str) -> float | None:
    """How long `stage` took; None when it is not there."""
    return facts["stages"].get(stage, {}).get("provenance", {}).get("seconds")


def _stage(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "folder": folder.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "sections": manifest.sections,
        "metrics": manifest.metrics,
        "provenance": manifest.provenance,
        "files": len(manifest.files),
        "bytes": sum(file["bytes"] for file in manifest.files.values()),
    }


def _dropped(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The first examples of each file, by its name."""
    return {path.stem: _lines(path, MAX_EXAMPLES) for path in sorted(folder.glob("*.jsonl"))}


def _lines(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        try:
            return [json.loads(line) for line, _ in zip(file, range(most or 10**12), strict=False)]
        except ValueError as error:
            raise _unreadable(path, error) from None


def read_json(path: Path, default: Any) -> Any:
    """What a file holds, or `default` where it is not there. Raises UserError when it is not JSON."""
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: ValueError) -> UserError:
    return UserError(f"{path}: not readable: {error}", hint="groundup verify RUN names every damaged file")
