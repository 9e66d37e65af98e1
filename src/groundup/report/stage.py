"""Stage 11-report: PDF and HTML report of a run, from the manifests of its stages."""

import json
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.machine import Machine
from groundup.recipe import RecipeView
from groundup.report.report_document import build_document
from groundup.report.report_files import write_report_files
from groundup.report.run_data import collect_run


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write report.pdf, report.html and report.json from the manifests of `inputs` and the run's plan.

    Equal manifests give equal bytes; manifests contain the durations of stages.
    """
    run_data = collect_run(out.parent, list(inputs.values()))
    with machine.progress.task("report", total=2, unit="files") as task:
        document = build_document(run_data, title=recipe.report.title, author=recipe.report.author)
        write_report_files(document, out / "report.pdf", out / "report.html")
        write_atomically(out / "report.json", (json.dumps(run_data, indent=1, ensure_ascii=False) + "\n").encode())
        task.advance(2)
    return {"stages": list(run_data["stages"])}
