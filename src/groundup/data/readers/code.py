"""Source code: files of known languages that people wrote, each one document; notebooks as scripts."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from groundup.data.document import Document, Dropped, Read
from groundup.data.readers.characters import decode
from groundup.data.readers.notebook import script
from groundup.data.readers.options import MAX_PAGE_BYTES, Options, read_bounded

EXTENSIONS = frozenset([
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".rs", ".go", ".java", ".kt", ".scala", ".js",
    ".mjs", ".ts", ".tsx", ".jsx", ".rb", ".php", ".pl", ".pm", ".sh", ".lua", ".r", ".jl", ".swift", ".cs", ".fs",
    ".hs", ".ml", ".mli", ".ex", ".exs", ".erl", ".clj", ".sql", ".zig", ".nim", ".dart", ".f", ".f90", ".m",
    ".ipynb", ".cu", ".vue", ".css", ".scss", ".tex", ".el", ".lisp", ".scm", ".v", ".vhdl", ".asm", ".s", ".proto",
])  # fmt: skip
VENDORED = frozenset([
    "vendor", "vendored", "_vendor", "third_party", "third-party", "node_modules", "bower_components",
    "site-packages", "dist", "build", ".git", ".hg", ".svn", ".tox", ".eggs", "__pycache__", "deps", "externals",
    "external",
])  # fmt: skip
MINIFIED = (".min.js", ".min.css", "-min.js", ".bundle.js", "_pb2.py", ".pb.go", ".g.dart")


def read(name: str, stream: IO[bytes], options: Options) -> Iterator[Read]:
    """One document, or the reason why the file is none. Files that are no source code are passed over in
    silence.
    """
    path = PurePosixPath(name)
    if path.suffix.lower() not in EXTENSIONS:
        return
    if VENDORED & set(path.parts[:-1]):
        yield Dropped("vendored", name)
        return
    if name.lower().endswith(MINIFIED):
        yield Dropped("generated", name)
        return
    data = read_bounded(stream, MAX_PAGE_BYTES)
    if data is None:
        yield Dropped("too_large", name)
    elif b"\0" in data:
        yield Dropped("not_text", name)
    elif path.suffix == ".ipynb":
        yield script(name, data)
    else:
        yield Document(decode(data), name)
