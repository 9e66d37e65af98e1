"""A story as a PDF, by Typst. The same story gives the same bytes: the file carries no date."""

import copy
import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

TEMPLATE = "report.typ"


def render_pdf(document: dict[str, Any]) -> bytes:
    """The document that `story` (see report_document.py) becomes.

    Letters that the report's typeface lacks are taken from the fonts of the system.
    """
    document = copy.deepcopy(document)
    with tempfile.TemporaryDirectory(prefix="groundup-report-") as name:
        folder = Path(name)
        for section in document["sections"]:
            for block in section["elements"]:
                if block["kind"] == "figure":
                    (folder / f"{block['name']}.svg").write_text(block.pop("svg"), encoding="utf-8")
        (folder / "story.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        template = folder / TEMPLATE
        template.write_bytes(files("groundup.report").joinpath(TEMPLATE).read_bytes())
        made = typst.compile(str(template), root=str(folder))
    assert isinstance(made, bytes)
    return made
