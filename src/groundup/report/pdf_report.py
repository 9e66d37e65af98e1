"""Report as a PDF, by Typst. Reproducible: equal documents give equal bytes, without a date."""

import copy
import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

TEMPLATE = "report.typ"


def render_pdf(document: dict[str, Any]) -> bytes:
    """PDF of a report document (see report_document.py). Glyphs missing in its typeface come from system fonts."""
    import typst  # slow to import

    document = copy.deepcopy(document)
    with tempfile.TemporaryDirectory(prefix="groundup-report-") as name:
        folder = Path(name)
        for section in document["sections"]:
            for element in section["elements"]:
                if element["kind"] == "figure":
                    (folder / f"{element['name']}.svg").write_text(element.pop("svg"), encoding="utf-8")
        (folder / "document.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        template = folder / TEMPLATE
        template.write_bytes(files("groundup.report").joinpath(TEMPLATE).read_bytes())
        pdf = typst.compile(str(template), root=str(folder))
    assert isinstance(pdf, bytes)
    return pdf
