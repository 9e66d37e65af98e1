"""`--save` of benchmarks: what a script prints is also a file, benchmarks/results/DATE-NAME-MACHINE.md."""

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import date
from pathlib import Path
from typing import TextIO

RESULTS = Path(__file__).parent / "results"


class _Copy:
    """A stream that keeps what it writes."""

    def __init__(self, stream: TextIO):
        self._stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def saved_output(name: str, title: str, *, save: bool) -> Iterator[None]:
    """Write what is printed to the results, at the end; also of a run that was interrupted, which then says so."""
    if not save:
        yield
        return
    copy, note = _Copy(sys.stdout), "Not complete: the run was interrupted.\n\n"
    try:
        with redirect_stdout(copy):  # type: ignore[type-var]
            yield
        note = ""
    finally:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_short, sys.argv[1:])])
        text = f"# {title}\n\n{processor()}, {cores} cores; {date.today()}:\n`{command}`\n\n{note}```\n{copy.text}```\n"
        path = RESULTS / f"{date.today()}-{name}-{cores}core-{_machine()}.md"
        path.write_text(text, encoding="utf-8")
        print(f"written to {path}", file=sys.stderr)


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return names[0].strip() if names else platform.machine()


def _machine() -> str:
    found = re.search(r"xeon|epyc|ryzen|core", processor().lower())
    return found[0] if found else platform.machine().lower()


def _short(argument: str) -> str:
    """An argument without the folders of this machine."""
    return Path(argument).name if os.sep in argument else argument
