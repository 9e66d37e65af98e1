"""Progress within a work unit: workers write how far they are beside their output, the stage reads it every second."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.data.archive import estimate_text_bytes

SUFFIX = ".reading"
REPORT_BYTES = 1 << 20
"""Text between two reports of a worker."""
POLL_SECONDS = 1.0


class UnitProgress:
    """What a worker has read of its unit, in bytes of its files: estimated within a file from the text that came out."""

    def __init__(self, stem: Path):
        self.path = stem.with_suffix(SUFFIX)
        self.finished = self.size = self.text = self.estimate = self.reported = 0

    def start_file(self, name: str, size: int) -> None:
        """Begin a file; the one before it is finished."""
        self.finished += self.size
        self.size, self.text, self.estimate = size, 0, max(estimate_text_bytes(name, size), 1)

    def add(self, text_bytes: int) -> None:
        """Count a document."""
        self.text += text_bytes
        done = self.finished + int(self.size * min(self.text / self.estimate, 1.0))
        if done - self.reported >= REPORT_BYTES:
            self.reported = done
            self.path.write_text(str(done))

    def close(self) -> None:
        """The unit is complete."""
        self.path.unlink(missing_ok=True)


def bytes_in_progress(folder: Path) -> int:
    """Bytes that the workers have read of units that are not complete."""
    total = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            total += int(path.read_text() or 0)
        except (OSError, ValueError):  # just replaced or removed
            continue
    return total


@contextmanager
def polled(folder: Path, show: Callable[[int], None]) -> Iterator[None]:
    """Call `show` with `bytes_in_progress` every second while the block runs."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_SECONDS):
            show(bytes_in_progress(folder))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
