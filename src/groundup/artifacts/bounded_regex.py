"""Regular expressions of recipes and foreign files, with a time limit.

Python's `re` can take longer than the age of the universe for a short pattern, such as (a|a)*b, and cannot be stopped from
within its process. So the matching runs in a second process, which is ended with the time.
"""

import atexit
import json
import os
import queue
import re
import subprocess
import sys
import threading
from contextlib import suppress

PLAIN = re.compile(r"[\w.\-\\/ ]*")
"""Patterns without repetitions and alternatives, which are matched at once in this process."""

DEFAULT_SECONDS = 5.0
PROGRAM = """
import json, re, signal, sys
alarm = getattr(signal, "alarm", lambda seconds: None)
for line in sys.stdin:
    pattern, text, flags, whole, seconds = json.loads(line)
    compiled = re.compile(pattern, flags)
    alarm(int(seconds) + 2)
    found = (compiled.fullmatch if whole else compiled.search)(text)
    alarm(0)
    print(int(found is not None), flush=True)
"""
"""The alarm ends it where the first process is gone."""


class RegexTimeout(Exception):
    """A match took longer than its limit."""


def regex_matches(pattern: str, text: str, *, whole: bool, flags: int = 0, seconds: float | None = None) -> bool:
    """Whether a valid pattern is found in the text, or is the whole text. Raises RegexTimeout after `seconds` (default: 5).

    >>> regex_matches("<b>.*</b>", "a <b>c</b>", whole=False)
    True
    """
    if PLAIN.fullmatch(pattern):
        return (re.fullmatch if whole else re.search)(pattern, text, flags) is not None
    with _LOCK:
        if not _PROCESS or not _PROCESS[0].usable:
            _PROCESS[:] = [_MatchingProcess()]
        return _PROCESS[0].matches([pattern, text, flags, whole], seconds or DEFAULT_SECONDS)


class _MatchingProcess:
    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM]
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def matches(self, request: list[object], seconds: float) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([*request, seconds]) + "\n")
        self.process.stdin.flush()
        try:
            return bool(int(self.answers.get(timeout=seconds)))
        except queue.Empty:
            self.end()
            raise RegexTimeout(f"{seconds:g} s") from None

    def end(self) -> None:
        if self.owner == os.getpid():
            self.process.kill()
            self.reader.join()
            with suppress(OSError):  # what was not written
                self.process.communicate()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)


_LOCK = threading.Lock()
_PROCESS: list[_MatchingProcess] = []


@atexit.register
def _end_matching() -> None:
    for each in _PROCESS:
        each.end()
