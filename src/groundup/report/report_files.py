"""The files of a report."""

import json
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.report.run_data import collect_run


def write_report(run: Path, pdf: Path) -> Path:
    """Write the report of a run, finished or not, as a PDF, and beside it as a page (.html); returns the PDF's path.

    Raises UserError when there is nothing to tell, or no place to write.
    """
    facts = collect_run(run)
    if not facts["stages"]:
        raise UserError(f"{run}: no finished stage to report on", hint="groundup run RECIPE builds one")
    write_report_files(facts, pdf, pdf.with_suffix(".html"), **_title_and_author(facts))
    return pdf


def write_report_files(
    facts: dict[str, Any],
    pdf_path: Path,
    html_path: Path,
    *,
    title: str | None = None,
    author: str | None = None,
) -> None:
    """The two forms of the report on `facts` (see run_data.py); each file is there whole or not at all."""
    from groundup.report.html_report import render_html
    from groundup.report.pdf_report import render_pdf as typeset
    from groundup.report.report_document import build_document

    story = build_document(facts, title=title, author=author)
    for path, data in ((pdf_path, typeset(story)), (html_path, render_html(story).encode())):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror}", hint="choose another place with --pdf"
            ) from None


def write_report_json(facts: dict[str, Any], path: Path) -> None:
    """Everything that the report knows, for programs."""
    write_atomically(path, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())


def _title_and_author(facts: dict[str, Any]) -> dict[str, str | None]:
    section = facts["recipe"].get("report") or {}
    return {"title": section.get("title"), "author": section.get("author")}
