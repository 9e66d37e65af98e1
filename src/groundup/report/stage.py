"""09-report: what was planned and what happened."""

from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.report.collect import collect
from groundup.report.write import write_facts, write_files


def run(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write report.pdf, report.html and facts.json from the manifests of `inputs` and the plan beside them.

    The same manifests give the same bytes; they hold how long the stages took, which is told too.
    """
    facts = collect(out.parent, list(inputs.values()))
    with machine.progress.task("report", total=2, unit="files") as task:
        write_files(
            facts,
            out / "report.pdf",
            out / "report.html",
            title=recipe.report.title,
            author=recipe.report.author,
        )
        write_facts(facts, out / "facts.json")
        task.advance(2)
    return {"stages": list(facts["stages"])}
