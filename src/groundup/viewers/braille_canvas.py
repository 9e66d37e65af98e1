"""Line plots in braille characters, each 2 dots wide and 4 high (Unicode, chapter 21.1)."""

import math
from collections.abc import Iterable

from rich.text import Text

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of a dot by its row and column in a character."""
EMPTY = 0x2800


class BrailleCanvas:
    """A canvas of `width` by `height` characters for values from `left` to `right` and `bottom` to `top`."""

    def __init__(self, width: int, height: int, left: float, right: float, bottom: float, top: float):
        self.width, self.height = width, height
        self._left, self._bottom = left, bottom
        self._across = (2 * width - 1) / ((right - left) or 1.0)
        self._up = (4 * height - 1) / ((top - bottom) or 1.0)
        self._bits = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def draw_points(self, at: Iterable[float], values: Iterable[float], style: str) -> None:
        """Draw points; those outside the canvas are skipped."""
        for x, y in map(self._to_dots, at, values):
            self._dot(round(x), round(y), style)

    def draw_curve(self, at: Iterable[float], values: Iterable[float], style: str) -> None:
        """Draw a line through all points."""
        last: tuple[float, float] | None = None
        for point in map(self._to_dots, at, values):
            x, y = last or point
            steps = max(1, math.ceil(max(abs(point[0] - x), abs(point[1] - y))))
            for index in range(steps + 1):
                fraction = index / steps
                self._dot(round(x + (point[0] - x) * fraction), round(y + (point[1] - y) * fraction), style)
            last = point

    def lines(self) -> list[Text]:
        """The lines of the plot, from the top."""
        lines = []
        for bits, styles in zip(self._bits, self._styles, strict=True):
            line = Text()
            for bit, style in zip(bits, styles, strict=True):
                line.append(chr(EMPTY + bit) if bit else " ", style)
            lines.append(line)
        return lines

    def line_at(self, value: float) -> int:
        """Line index of a value, from the top."""
        return self.height - 1 - round(self._to_dots(0, value)[1]) // 4

    def _to_dots(self, x: float, y: float) -> tuple[float, float]:
        return (x - self._left) * self._across, (y - self._bottom) * self._up

    def _dot(self, x: int, y: int, style: str) -> None:
        if 0 <= x < 2 * self.width and 0 <= y < 4 * self.height:
            row, column = self.height - 1 - y // 4, x // 2
            self._bits[row][column] |= DOTS[3 - y % 4][x % 2]
            self._styles[row][column] = style


def ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """At most `max_ticks` round numbers from `low` to `high`, evenly spaced; at least one if there is any."""
    if not high > low or max_ticks < 1:
        return [low]
    size = 10 ** math.floor(math.log10((high - low) / max_ticks))
    for step in (size, 2 * size, 5 * size, 10 * size, 20 * size):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < max_ticks:
            return [number * step for number in range(first, last + 1)]
    return []
