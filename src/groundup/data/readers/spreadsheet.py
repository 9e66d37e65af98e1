"""Spreadsheets (XLSX, ECMA-376 part 1, section 18): rows as records, named by the first row of a sheet."""

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from groundup.data.readers.reader_options import MAX_BYTES

MAX_COLUMNS = 1_000
SHEET_ERRORS = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, SyntaxError, IndexError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
"""What openpyxl raises for damaged files."""


def iter_sheet_rows(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(sheet:row, record) of all sheets; empty rows are left out. Raises one of SHEET_ERRORS for a damaged file."""
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        parts = [info.file_size for info in file.infolist() if info.filename.endswith((".xml", ".rels"))]
        if max(parts, default=0) > MAX_BYTES:  # openpyxl reads the texts of all cells into memory
            raise ValueError(f"a part larger than {MAX_BYTES} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and extensions
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what the file says of its size may be wrong
            names: list[str] = []
            for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
                values = row[:MAX_COLUMNS]
                if all(value is None for value in values):
                    continue
                if not names:
                    names = [str(value) if value is not None else "" for value in values]
                    continue
                yield f"{sheet.title}:{number}", dict(zip(names, values, strict=False))
