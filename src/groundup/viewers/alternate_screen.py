"""The whole terminal as one picture that is drawn anew, and keys as they are pressed."""

import os
import re
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

KEY_PATTERN = re.compile(rb"\x1b\[[0-9;?]*[@-~]|\x1bO[A-Z]|[\xc0-\xff][\x80-\xbf]*|.", re.DOTALL)
"""What one press sends: an escape sequence, or one character of UTF-8."""

POLL_SECONDS = 0.25
"""Seconds between two looks at the size of the window."""


class AlternateScreen:
    """The terminal's other screen; made by `alternate_screen`."""

    def __init__(self, descriptor: int):
        self.console = Console(highlight=False)
        self._descriptor = descriptor
        self._drawn_at = self.size()

    def size(self) -> os.terminal_size:
        """Columns and lines, as they are now."""
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[Text]) -> None:
        """Show `lines`, none wider than the screen, from its top."""
        self._drawn_at = self.size()
        rows = []
        for line in lines:
            with self.console.capture() as capture:
                self.console.print(line, end="", soft_wrap=True)
            rows.append(capture.get() + "\x1b[K")
        sys.stdout.write("\x1b[H" + "\r\n".join(rows) + "\x1b[J")
        sys.stdout.flush()

    def read_keys(self, seconds: float = float("inf")) -> list[bytes]:
        """The keys that are pressed next; none when the time is over or the window has another size.

        Raises EOFError when there is nobody to press any.
        """
        while seconds > 0:
            if select.select([self._descriptor], [], [], min(POLL_SECONDS, seconds))[0]:
                data = os.read(self._descriptor, 64)
                if not data:
                    raise EOFError
                return KEY_PATTERN.findall(data)
            seconds -= POLL_SECONDS
            if self.size() != self._drawn_at:
                break
        return []


@contextmanager
def alternate_screen() -> Iterator[AlternateScreen]:
    """The other screen, without a cursor, for as long as the block runs; all as it was afterwards. Ctrl-C only ends it."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield AlternateScreen(descriptor)
    except (KeyboardInterrupt, EOFError):
        pass
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
