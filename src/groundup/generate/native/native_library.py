"""C sources compiled by the C compiler of the machine, if there is one: once, for this processor, into the user's cache folder.

Without a compiler, with GROUNDUP_NATIVE=0, or where the compiler fails, PyTorch's operations do the same, more slowly.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from groundup.artifacts.machine import default_cache

FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-shared", "-fPIC")
LIBRARIES = ("-lm", "-lpthread")
TIMEOUT = 60
"""Seconds for the compiler."""


@cache
def load_native(source: Path, *flags: str) -> ctypes.CDLL | None:
    """The library of a C file, compiled at the first call of all processes; None without a compiler.

    Headers in the folder of the file count as parts of it.
    """
    compiler = os.environ.get("CC") or shutil.which("cc")
    if os.environ.get("GROUNDUP_NATIVE") == "0" or not compiler:
        return None
    parts = [source, *sorted(source.parent.glob("*.h"))]
    options = (*FLAGS, *flags)
    contents = [part.read_bytes() for part in parts]
    key = hashlib.sha256(b"\0".join([*contents, " ".join(options).encode(), _processor()])).hexdigest()[:16]
    library = default_cache() / f"{source.stem}-{key}.so"
    try:
        if not library.is_file():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                built = Path(folder) / library.name
                command = [*compiler.split(), *options, str(source), "-o", str(built), *LIBRARIES]
                subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
                built.rename(library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> bytes:
    """What distinguishes processors that share a cache folder: their instructions, as far as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        lines = [platform.platform().encode(), platform.processor().encode()]
    return b"".join(sorted({line for line in lines if line.lower().startswith((b"flags", b"features"))} or lines[:2]))
