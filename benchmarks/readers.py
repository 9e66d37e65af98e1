"""Throughput of the readers: MB of files a processor second, and of the text in them.

    python benchmarks/readers.py 'pdf:manuals/*.pdf' 'office:letters/**/*.docx' 'mail:boxes/*.mbox' [--seconds 3]

Files are held in memory and read again until the time is over. Compressed files (PDF, DOCX, ODT, XLSX) hold more text, or less,
than their size: both are printed. `--peers` adds pypdf and python-docx, where they are installed, on the same files.
"""

import argparse
import glob
import importlib.util
import io
import os
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

from groundup.artifacts.machine import processor_name
from groundup.data.document import Document
from groundup.data.readers import get_reader
from groundup.data.readers.reader_options import ReaderOptions

Reading = Callable[[str, bytes], Iterable[str]]


def ours(kind: str) -> Reading:
    reader = get_reader(kind)
    options = ReaderOptions(by_content=True)

    def texts(name: str, data: bytes) -> Iterable[str]:
        return (found.text for found in reader(name, io.BytesIO(data), options) if isinstance(found, Document))

    return texts


def pypdf_texts(name: str, data: bytes) -> Iterable[str]:
    import pypdf

    return (page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)


def docx_texts(name: str, data: bytes) -> Iterable[str]:
    import docx

    return (paragraph.text for paragraph in docx.Document(io.BytesIO(data)).paragraphs)


def measure(read: Reading, files: dict[str, bytes], limit: float) -> tuple[float, float, int]:
    """(MB of files, MB of text, documents) a processor second, and documents of one pass."""
    began = time.process_time()
    size = text_size = documents = passes = 0
    while passes == 0 or time.process_time() - began < limit:
        for name, data in files.items():
            found = list(read(name, data))
            size += len(data)
            text_size += sum(len(text.encode()) for text in found)
            documents += len(found)
        passes += 1
    seconds = time.process_time() - began
    return size / seconds / 1e6, text_size / seconds / 1e6, documents // passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpora", nargs="+", help="KIND:GLOB")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    print(f"{date.today()}, {processor_name()}, one of {len(os.sched_getaffinity(0))} cores")
    print(f"{'reader':24}{'files':>7}{'MB':>8}{'documents':>11}{'MB/s':>8}{'MB/s of text':>14}")
    for kind, _, pattern in (each.partition(":") for each in options.corpora):
        paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
        readings = {f"{kind} {Path(pattern).suffix}": ours(kind)}
        if options.peers and kind == "pdf" and importlib.util.find_spec("pypdf"):
            readings["  pypdf"] = pypdf_texts
        if options.peers and pattern.endswith(".docx") and importlib.util.find_spec("docx"):
            readings["  python-docx"] = docx_texts
        for name, read in readings.items():
            speed, text_speed, documents = measure(read, files, options.seconds)
            size = sum(map(len, files.values())) / 1e6
            print(f"{name:24}{len(files):7}{size:8.2f}{documents:11}{speed:8.2f}{text_speed:14.2f}", flush=True)


if __name__ == "__main__":
    main()
