"""Plots of a corpus: filtering of each source, document lengths, mixtures. Plain numbers in, SVG out."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from groundup.report import formatting
from groundup.report.plot_style import (
    BLUE,
    INK,
    PALE_BLUE,
    REASONS,
    SOURCES,
    WIDTH,
    label_point,
    legend_above,
    style_bar_axis,
    svg_figure,
)

LETTER_WIDTH = 0.062
"""Approximate width of a label's letter in inches."""
FUNNELS_PER_ROW = 3
"""Funnel plots side by side."""


def plot_funnels(rows: Mapping[str, Sequence[int]], steps: Sequence[str]) -> str:
    """Documents of each source after each filter stage; the first stage is the input."""
    count = len(rows)
    across = min(FUNNELS_PER_ROW, count)
    down = -(-count // across)
    with svg_figure(down * (0.5 + 0.19 * len(steps)), down, across, squeeze=False, sharey=True) as (plot, grid):
        for index, (axes, (name, left)) in enumerate(zip(grid.flat, rows.items(), strict=False)):
            fractions = [number / (left[0] or 1) for number in left]
            colors = [*[PALE_BLUE] * (len(left) - 1), BLUE]
            axes.barh(
                range(len(left)), fractions, left=[-fraction / 2 for fraction in fractions], height=0.8, color=colors
            )
            for index, (number, fraction) in enumerate(zip(left, fractions, strict=True)):
                label_point(axes, f"{number:,}", (fraction / 2, index), (4, 0), va="center", fontsize=8, color=INK)
            axes.set_title(name)
            axes.set_xlim(-0.5, 0.8)
            axes.set_xticks([])
            axes.set_yticks(range(len(steps)), steps)
            axes.spines["bottom"].set_visible(False)
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", labelcolor=INK, left=False)
            axes.grid(visible=False)
            if index == 0:
                axes.invert_yaxis()
        for axes in grid.flat[count:]:
            axes.axis("off")
    return plot.svg


def plot_drop_reasons(rows: Mapping[str, tuple[float, Mapping[str, float]]]) -> str:
    """Stacked bars of each source: name -> (kept fraction, {reason: dropped fraction}), with a sum of 1."""
    names = list(rows)
    totals: dict[str, float] = {}
    for _, dropped in rows.values():
        for reason, part in dropped.items():
            totals[reason] = totals.get(reason, 0) + part
    order = sorted(totals, key=lambda reason: -totals[reason])
    shown, others = order[: len(REASONS) - 1], order[len(REASONS) - 1 :]
    with svg_figure(0.75 + 0.32 * len(names)) as (plot, axes):
        left = [0.0] * len(names)

        def add_bars(parts: list[float], color: str, label: str) -> None:
            axes.barh(names, parts, left=left, height=0.62, color=color, label=label, edgecolor="white", linewidth=0.6)
            left[:] = [a + b for a, b in zip(left, parts, strict=True)]

        add_bars([kept for kept, _ in rows.values()], BLUE, "kept")
        for reason, color in zip(shown, REASONS, strict=False):
            add_bars([dropped.get(reason, 0) for _, dropped in rows.values()], color, reason)
        if others:
            add_bars(
                [sum(dropped.get(r, 0) for r in others) for _, dropped in rows.values()], REASONS[-1], "other reasons"
            )
        for index, (kept, _) in enumerate(rows.values()):
            if kept > 0.08:  # room for the label
                text = formatting.percent(kept, 1)
                label_point(axes, text, (0, index), (5, 0), va="center", fontsize=8, color="white")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        style_bar_axis(axes)
        axes.grid(visible=False)
        legend_above(axes)
    return plot.svg


def plot_lengths(rows: Mapping[str, Mapping[int, int]]) -> str:
    """Histogram of document lengths by source: {upper bound in bytes, a power of two: documents}."""
    sizes = sorted({size for counts in rows.values() for size in counts})
    bins = [1 << power for power in range(sizes[0].bit_length() - 1, sizes[-1].bit_length())]
    parts = {name: [counts.get(size, 0) for size in bins] for name, counts in _largest(rows).items()}
    with svg_figure(2.3) as (plot, axes):
        bottom = [0] * len(bins)
        for (name, counts), color in zip(parts.items(), SOURCES, strict=False):
            axes.bar(
                range(len(bins)), counts, bottom=bottom, width=0.86, color=color, label=name, edgecolor="white", linewidth=0.4
            )  # fmt: skip
            bottom = [a + b for a, b in zip(bottom, counts, strict=True)]
        every = -(-len(bins) // 14)
        axes.set_xticks(range(0, len(bins), every), [_binary(size) for size in bins[::every]])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_ylabel("documents")
        axes.set_xlabel("document size (upper bound in bytes)")
        axes.grid(visible=False, axis="x")
        legend_above(axes)
    return plot.svg


def plot_mixtures(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A stacked bar for each row of {part: amount}; the parts of the last bar, largest first, are labeled."""
    last = list(rows.values())[-1]
    order = _largest({name: {0: amount} for name, amount in last.items()})
    others_name = list(order)[-1] if len(last) > len(SOURCES) else None
    named = len(rows) > 1
    margin = 0.09 * max(map(len, rows)) / WIDTH if named else 0.0
    with svg_figure(0.7 + 0.26 * len(rows)) as (plot, axes):
        for row, (title, parts) in enumerate(rows.items()):
            total, left = sum(parts.values()) or 1.0, 0.0
            others = total - sum(parts.get(name, 0.0) for name in order)
            for name, color in zip(order, SOURCES, strict=False):
                width = (others if name == others_name else parts.get(name, 0.0)) / total
                axes.barh([row], [width], left=left, height=0.84, color=color, edgecolor="white")
                left += width
            if named:
                label_point(axes, title, (0, row), (-5, 0), ha="right", va="center")
        _label_parts(axes, {name: counts[0] for name, counts in order.items()}, len(rows) - 0.5)
        axes.set_xlim(-margin, 1)
        axes.set_ylim(len(rows) + 1.7, -0.5)
        axes.axis("off")
    return plot.svg


def _label_parts(axes: Axes, parts: Mapping[str, float], bottom: float) -> None:
    """Label each part below its bar segment if there is room, the others at the end."""
    total = sum(parts.values()) or 1.0
    left, free, narrow = 0.0, 0.0, []
    for name, part in parts.items():
        text = f"{name}\n{formatting.percent(part, total)}"
        width = LETTER_WIDTH * (max(map(len, text.split("\n"))) + 1) / WIDTH
        if part / total > width and left >= free:
            label_point(axes, text, (left, bottom), (1, -4), ha="left", va="top", linespacing=1.3)
            free = left + width
        elif part:
            narrow.append(f"{name} {formatting.percent(part, total)}")
        left += part / total
    if narrow:
        label_point(axes, " · ".join(narrow), (1, bottom), (0, -29), ha="right", va="top")


def _largest(rows: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """The first rows, one per color; the others are summed into one row."""
    names = list(rows)
    if len(names) <= len(SOURCES):
        return {name: dict(row) for name, row in rows.items()}
    largest, small = names[: len(SOURCES) - 1], names[len(SOURCES) - 1 :]
    others: dict[int, float] = {}
    for name in small:
        for key, amount in rows[name].items():
            others[key] = others.get(key, 0) + amount
    return {**{name: dict(rows[name]) for name in largest}, f"{len(small)} others": others}


def _binary(size: int) -> str:
    for amount, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")):
        if size >= amount:
            return f"{size // amount}{letter}"
    return str(size)
