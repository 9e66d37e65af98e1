"""Data of a run folder in one dictionary: plan, recipe and the manifests of its finished stages.

Beside manifests it reads a few small files: step records, examples of dropped documents and of duplicates, and the plan.
Missing stages are left out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from groundup.artifacts.contamination_flags import contamination_flags
from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object, shorten
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.manifest import Manifest, changed_files
from groundup.artifacts.run_record import HINT, check_recorded, manifest_name

PLAN, RECIPE = "plan.json", "recipe.json"
REPORT_STAGE = "report"
MAX_EXAMPLES = 200
"""Maximum number of dropped documents per source, and of duplicate clusters."""


def collect_run(run: Path, folders: Sequence[Path] | None = None) -> dict[str, Any]:
    """{"name", "plan", "recipe", "stages": {stage: ...}, "steps": [...], "dropped": {file: [...]}, "clusters": [...],
    "contamination": {evaluation set: ...}} of a run, with the finished stages in `folders` (default: all).

    Raises UserError when `run` is not a folder or a file in it is damaged.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder", hint="groundup run RECIPE makes one")
    check_recorded(run, (PLAN, RECIPE, *(manifest_name(path) for path in folders or run.iterdir())))
    stages = {}
    stage_folders = [path for path in run.iterdir() if path.is_dir() and path.suffix not in (".partial", ".old")]
    for folder in sorted(stage_folders if folders is None else folders):
        manifest = Manifest.read(folder)
        if manifest is not None and manifest.stage != REPORT_STAGE:
            stages[manifest.stage] = _stage(folder, manifest)
            read = [name for name in manifest.files if PurePath(name).match("*.jsonl")]
            if lines := changed_files(folder, manifest, read):
                raise UserError(f"{run}/{lines[0]}", hint=HINT)
    plan = read_json(run / PLAN, {})
    data = run / stages.get("data", {}).get("folder", "no data")
    return {
        "name": plan.get("name", run.name),
        "plan": plan,
        "recipe": read_json(run / RECIPE, {}),
        "stages": stages,
        "steps": _lines(run / stages["base"]["folder"] / "steps.jsonl") if "base" in stages else [],
        "dropped": {path.stem: _lines(path, MAX_EXAMPLES) for path in sorted((data / "dropped").glob("*.jsonl"))},
        "clusters": _lines(data / "clusters.jsonl", MAX_EXAMPLES),
        "contamination": contamination_flags(data),
    }


@contextmanager
def damaged_metrics(run: Path) -> Iterator[None]:
    """An error in a text about a run as a UserError: metrics have no schema, and can be edited where run.json is missing."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{run}: damaged metrics: {type(error).__name__}: {shorten(error)}", hint=HINT) from error


def stage_metrics(run_data: dict[str, Any], stage: str) -> dict[str, Any]:
    """Metrics of a stage; empty for a missing stage."""
    return run_data["stages"].get(stage, {}).get("metrics", {})


def masked_lm_scores(run_data: dict[str, Any]) -> dict[str, float] | None:
    """Scores on masked tokens; None without them, and after one step of training, which is none."""
    is_trained = stage_metrics(run_data, "base").get("steps") != 1
    return stage_metrics(run_data, "scores").get("masked_lm") if is_trained else None


def stage_seconds(run_data: dict[str, Any], stage: str) -> float | None:
    """Duration of a stage; None for a missing stage."""
    return run_data["stages"].get(stage, {}).get("provenance", {}).get("seconds")


def peak_memory(run_data: dict[str, Any]) -> float | None:
    """Peak bytes of pretraining on a device, or of the process on a CPU; None: not measured."""
    return max((step["memory"] for step in run_data["steps"] if step.get("memory")), default=None)


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


def _lines(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    return list(islice(read_jsonl(path), limit))


def read_json(path: Path, default: Any) -> Any:
    """The object in a JSON file, or `default` if it does not exist. Raises UserError for invalid JSON."""
    return read_json_object(path, hint="groundup verify RUN names every damaged file") if path.is_file() else default
