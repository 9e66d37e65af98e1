"""Full-screen terminal output on the alternate screen buffer, and unbuffered keys."""

import os
import re
import select
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from groundup.artifacts.system_modules import import_posix

KEY_PATTERN = re.compile(rb"\x1b\[[0-9;?]*[@-~]|\x1bO[A-Z]|[\xc0-\xff][\x80-\xbf]*|.", re.DOTALL)
"""One key: an escape sequence or a UTF-8 character."""

POLL_SECONDS = 0.25
"""Seconds between two checks of the window size."""


class AlternateScreen:
    """The alternate screen of the terminal; created by `alternate_screen`."""

    def __init__(self, descriptor: int):
        self.console = Console(highlight=False)
        self._descriptor = descriptor
        self._drawn_at = self.size()

    def size(self) -> os.terminal_size:
        """Current columns and lines."""
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[Text]) -> None:
        """Show `lines` from the top; none may be wider than the screen."""
        self._drawn_at = self.size()
        rows = []
        for line in lines:
            with self.console.capture() as capture:
                self.console.print(line, end="", soft_wrap=True)
            rows.append(capture.get() + "\x1b[K")
        sys.stdout.write("\x1b[H" + "\r\n".join(rows) + "\x1b[J")
        sys.stdout.flush()

    def read_keys(self, seconds: float = float("inf")) -> list[bytes]:
        """The next keys; none after `seconds` or when the window was resized. Raises EOFError at the end of input."""
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
    """Switch to the alternate screen without a cursor, and back at the end of the block. Ctrl-C ends the block."""
    termios, tty = (import_posix(name, "the full-screen view") for name in ("termios", "tty"))
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
