"""Report files: PDF and HTML of a run."""

from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.storage_errors import describe_storage_error
from groundup.report.run_data import collect_run, damaged_metrics


def build_report(run: Path | str) -> dict[str, Any]:
    """The report of a run folder, finished or not, as plain data for `render_pdf` and `render_html`.

        Path("report.html").write_text(render_html(build_report("runs/quickstart")))

    Raises UserError when no stage is finished.
    """
    from groundup.report.report_document import build_document

    run_data = collect_run(Path(run))
    if not run_data["stages"]:
        raise UserError(f"{run}: no finished stage to report on", hint="groundup run RECIPE builds one")
    config = run_data["recipe"].get("report") or {}
    with damaged_metrics(Path(run)):
        return build_document(run_data, title=config.get("title"), author=config.get("author"))


def write_report(run: Path, pdf: Path) -> Path:
    """Write the report of a run as a PDF, and as HTML beside it. Returns the PDF's path.

    Raises UserError when no stage is finished or a file cannot be written.
    """
    write_report_files(build_report(run), pdf, pdf.with_suffix(".html"))
    return pdf


def write_report_files(document: dict[str, Any], pdf_path: Path, html_path: Path) -> None:
    """Write a report document (see report_document.py) as PDF and HTML, each atomically."""
    from groundup.report.html_report import render_html
    from groundup.report.pdf_report import render_pdf

    for path, data in ((pdf_path, render_pdf(document)), (html_path, render_html(document).encode())):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise describe_storage_error(error, path) or UserError(
                f"{path}: cannot be written: {error.strerror}", hint="choose another path with --pdf"
            ) from None
