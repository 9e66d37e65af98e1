"""Source code reader: one document per file in a known language, without vendored and generated files."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from groundup.data.document import Document, DroppedDocument, ReadResult
from groundup.data.readers.encoding import decode_bytes, wide_encoding
from groundup.data.readers.reader_options import MAX_PAGE_BYTES, ReaderOptions, read_bounded

SOURCE_SUFFIXES = frozenset([
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".rs", ".go", ".java", ".kt", ".scala", ".js",
    ".mjs", ".ts", ".tsx", ".jsx", ".rb", ".php", ".pl", ".pm", ".sh", ".lua", ".r", ".jl", ".swift", ".cs", ".fs",
    ".hs", ".ml", ".mli", ".ex", ".exs", ".erl", ".clj", ".sql", ".zig", ".nim", ".dart", ".f", ".f90", ".m",
    ".ipynb", ".cu", ".vue", ".css", ".scss", ".tex", ".el", ".lisp", ".scm", ".v", ".vhdl", ".asm", ".s", ".proto",
])  # fmt: skip
VENDORED_FOLDERS = frozenset([
    "vendor", "vendored", "_vendor", "third_party", "third-party", "node_modules", "bower_components",
    "site-packages", "dist", "build", ".git", ".hg", ".svn", ".tox", ".eggs", "__pycache__", "deps", "externals",
    "external",
])  # fmt: skip
PYTHON_MAGIC = re.compile(r"%{1,2}[A-Za-z_]\w|!")
"""Lines for IPython: %matplotlib, %%time, !ls; not %>% of R and not a line that begins with a format."""

GENERATED_SUFFIXES = (".min.js", ".min.css", "-min.js", ".bundle.js", "_pb2.py", ".pb.go", ".g.dart")


def read(name: str, stream: IO[bytes], options: ReaderOptions) -> Iterator[ReadResult]:
    """One document, or the reason to drop the file. Files with other suffixes are skipped without a reason."""
    path = PurePosixPath(name)
    if not options.by_content and path.suffix.lower() not in SOURCE_SUFFIXES:
        return
    if VENDORED_FOLDERS & set(path.parts[:-1]):
        yield DroppedDocument("vendored", name)
        return
    if name.lower().endswith(GENERATED_SUFFIXES):
        yield DroppedDocument("generated", name)
        return
    data = read_bounded(stream, MAX_PAGE_BYTES)
    if data is None:
        yield DroppedDocument("too_large", name)
    elif b"\0" in data and wide_encoding(data) is None:
        yield DroppedDocument("not_text", name)
    elif path.suffix == ".ipynb":
        yield notebook_to_script(name, data)
    else:
        decoded = decode_bytes(data)
        yield Document(decoded.text, name, decoded.encoding)


def notebook_to_script(name: str, data: bytes) -> ReadResult:
    """A Jupyter notebook as one script: text cells as comments, no outputs (nbformat.readthedocs.io, versions 3 and 4)."""
    try:
        notebook = json.loads(data)
        sheets = notebook.get("worksheets") or [notebook]
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        is_python = _notebook_language(notebook) == "python"
        parts = [_cell(cell, is_python) for cell in cells if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return DroppedDocument("broken_notebook", name, str(error))
    text = "\n\n".join(part for part in parts if part.strip())
    return Document(text + "\n", name) if text else DroppedDocument("empty", name)


def _notebook_language(notebook: dict) -> str:  # type: ignore[type-arg]
    metadata = notebook.get("metadata") or {}
    kernel, info = metadata.get("kernelspec") or {}, metadata.get("language_info") or {}
    return str(info.get("name") or kernel.get("language") or "python").lower()


def _cell(cell: dict, is_python: bool) -> str:  # type: ignore[type-arg]
    source = cell.get("source", cell.get("input", ""))
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    if cell.get("cell_type") == "code":
        if not is_python:
            return text
        return "\n".join(line for line in text.split("\n") if not PYTHON_MAGIC.match(line))
    if cell.get("cell_type") == "heading":
        text = f"{'#' * int(cell.get('level', 1))} {text}"
    if cell.get("cell_type") in ("markdown", "heading"):
        return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))
    return ""
