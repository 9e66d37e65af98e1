"""Jupyter notebook reader: to a script, text cells as comments. Source: https://nbformat.readthedocs.io, version 4."""

import json

from groundup.data.document import Document, DroppedDocument, ReadResult

PYTHON_MAGIC = ("%", "!")


def notebook_to_script(name: str, data: bytes) -> ReadResult:
    """The notebook as one script, without outputs."""
    try:
        notebook = json.loads(data)
        cells = notebook["cells"]
        parts = [_cell(cell) for cell in cells if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return DroppedDocument("broken_notebook", name, str(error))
    text = "\n\n".join(part for part in parts if part.strip())
    return Document(text + "\n", name) if text else DroppedDocument("empty", name)


def _cell(cell: dict) -> str:  # type: ignore[type-arg]
    source = cell.get("source", "")
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    if cell.get("cell_type") == "code":
        return "\n".join(line for line in text.split("\n") if not line.startswith(PYTHON_MAGIC))
    if cell.get("cell_type") == "markdown":
        return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))
    return ""
