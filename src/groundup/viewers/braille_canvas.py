"""A curve made of letters: Braille patterns are two dots wide and four high (Unicode, chapter 21.1)."""

import math
from collections.abc import Iterable

from rich.text import Text

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of a dot, by its row and column in a letter."""
EMPTY = 0x2800


class BrailleCanvas:
    """`width` by `height` letters to draw on, over the values `left` to `right` and `bottom` to `top`."""

    def __init__(self, width: int, height: int, left: float, right: float, bottom: float, top: float):
        self.width, self.height = width, height
        self._left, self._bottom = left, bottom
        self._across = (2 * width - 1) / ((right - left) or 1.0)
        self._up = (4 * height - 1) / ((top - bottom) or 1.0)
        self._bits = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def draw_points(self, at: Iterable[float], values: Iterable[float], style: str) -> None:
        """A dot for each; those beyond the edges are left out."""
        for x, y in map(self._to_dots, at, values):
            self._dot(round(x), round(y), style)

    def draw_curve(self, at: Iterable[float], values: Iterable[float], style: str) -> None:
        """A line through all."""
        last: tuple[float, float] | None = None
        for here in map(self._to_dots, at, values):
            x, y = last or here
            steps = max(1, math.ceil(max(abs(here[0] - x), abs(here[1] - y))))
            for part in range(steps + 1):
                share = part / steps
                self._dot(round(x + (here[0] - x) * share), round(y + (here[1] - y) * share), style)
            last = here

    def lines(self) -> list[Text]:
        """What was drawn, from the top."""
        found = []
        for bits, styles in zip(self._bits, self._styles, strict=True):
            line = Text()
            for bit, style in zip(bits, styles, strict=True):
                line.append(chr(EMPTY + bit) if bit else " ", style)
            found.append(line)
        return found

    def line_at(self, value: float) -> int:
        """On which line from the top a value is."""
        return self.height - 1 - round(self._to_dots(0, value)[1]) // 4

    def _to_dots(self, x: float, y: float) -> tuple[float, float]:
        return (x - self._left) * self._across, (y - self._bottom) * self._up

    def _dot(self, x: int, y: int, style: str) -> None:
        if 0 <= x < 2 * self.width and 0 <= y < 4 * self.height:
            row, column = self.height - 1 - y // 4, x // 2
            self._bits[row][column] |= DOTS[3 - y % 4][x % 2]
            self._styles[row][column] = style


def ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`, evenly spaced; at least one if there is any."""
    if not high > low or max_ticks < 1:
        return [low]
    size = 10 ** math.floor(math.log10((high - low) / max_ticks))
    for step in (size, 2 * size, 5 * size, 10 * size, 20 * size):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < max_ticks:
            return [number * step for number in range(first, last + 1)]
    return []
