"""09-report: what was planned and what happened."""

from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.report.report_files import write_report_files, write_report_json
from groundup.report.run_data import collect_run


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write report.pdf, report.html and report.json from the manifests of `inputs` and the plan beside them.

    The same manifests give the same bytes; they hold how long the stages took, which is told too.
    """
    facts = collect_run(out.parent, list(inputs.values()))
    with machine.progress.task("report", total=2, unit="files") as task:
        write_report_files(
            facts,
            out / "report.pdf",
            out / "report.html",
            title=recipe.report.title,
            author=recipe.report.author,
        )
        write_report_json(facts, out / "report.json")
        task.advance(2)
    return {"stages": list(facts["stages"])}
