"""Profiler: a trace of some steps for chrome://tracing or Perfetto."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile


class Profiler:
    """Traces steps `window[0]` to `window[1]` to `trace-FIRST-LAST.json.gz` in `folder`; None: no trace."""

    def __init__(self, window: tuple[int, int] | None, folder: Path):
        self.window, self.folder = window or (-1, -1), folder
        self._profile: profile | None = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Context of one step."""
        first, last = self.window
        if step == first:
            self._profile = profile()
            self._profile.start()
        yield
        if step == last and self._profile is not None:
            self._profile.stop()
            self._profile.export_chrome_trace(str(self.folder / f"trace-{first}-{last}.json.gz"))
            self._profile = None
