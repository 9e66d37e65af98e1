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
TIMEOUT = 240
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
    try:
        library = default_cache() / f"{source.stem}-{key}.so"
        if _is_foreign(library):  # a folder that several people write to
            library = library.with_stem(f"{library.stem}-{os.geteuid()}")
            if _is_foreign(library):
                return None
        return _load(library) or _compile([*compiler.split(), *options, str(source)], library)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: a user without a home folder
        return None


def _compile(command: list[str], library: Path) -> ctypes.CDLL:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        # without pipes, which processes of a compiler that hangs would keep open
        subprocess.run(
            [*command, "-o", str(built), *LIBRARIES], check=True, timeout=TIMEOUT,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        built.chmod(0o755)
        built.rename(library)
    return ctypes.CDLL(str(library))


def _load(library: Path) -> ctypes.CDLL | None:
    """None for a library that does not exist or is damaged."""
    try:
        return ctypes.CDLL(str(library)) if library.is_file() else None
    except OSError:
        return None


def _is_foreign(library: Path) -> bool:
    """Whether a file belongs to another user than this one and root: its code would run as this user."""
    return hasattr(os, "geteuid") and library.exists() and library.stat().st_uid not in (0, os.geteuid())


def _processor() -> bytes:
    """What distinguishes processors that share a cache folder: their instructions, as far as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        lines = [platform.platform().encode(), platform.processor().encode()]
    return b"".join(sorted({line for line in lines if line.lower().startswith((b"flags", b"features"))} or lines[:2]))
