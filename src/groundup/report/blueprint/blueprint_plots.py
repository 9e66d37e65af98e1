"""Plots of the blueprint. Each function takes plain numbers and returns an SVG."""

from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, NullLocator

from groundup.report import formatting
from groundup.report.plot_style import (
    BLUE,
    INK,
    PALE_BLUE,
    RUST,
    SOFT,
    SOURCES,
    label_point,
    style_bar_axis,
    svg_figure,
)


def plot_isoflop(
    sizes: Sequence[float],
    losses: Sequence[float],
    chosen: Sequence[float],
    minimum: Sequence[float],
    unit: str,
    interval: tuple[float, float],
) -> str:
    """Loss of models of equal training compute against their size, with the planned one and the best one."""
    with svg_figure(2.6) as (plot, axes):
        axes.plot(sizes, losses, color=BLUE)
        axes.set_xscale("log")
        axes.plot([chosen[0], chosen[0]], interval, color=RUST, linewidth=1.1, solid_capstyle="butt")
        axes.plot([minimum[0]], [minimum[2]], "o", color="white", markeredgecolor=BLUE, markersize=6)
        axes.plot([chosen[0]], [chosen[2]], "o", color=RUST, markersize=5.5)
        side = 1 if chosen[0] >= minimum[0] else -1
        label_point(
            axes,
            f"this plan: {formatting.short_count(chosen[0])}",
            (chosen[0], interval[0]),
            (6 * side, 1),
            color=RUST,
            ha="left" if side > 0 else "right",
        )
        label_point(
            axes,
            f"lowest: {formatting.short_count(minimum[0])}",
            (minimum[0], minimum[2]),
            (-8 * side, -12),
            color=BLUE,
            ha="right" if side > 0 else "left",
            va="top",
        )
        axes.set_xlabel("parameters")
        axes.set_ylabel(f"predicted loss ({unit})")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.short_count(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = min(*losses, interval[0]), max(min(losses) * 1.35, chosen[2] * 1.05, interval[1])
        axes.set_ylim(low - 0.06 * (high - low), high)
    return plot.svg


def plot_memory(parts: Sequence[tuple[str, float]], usable: float, total: float) -> str:
    """Bytes of each part on one device, stacked in one bar, with what a plan may use and what the device has."""
    with svg_figure(1.75) as (plot, axes):
        start = 0.0
        handles = []
        for (name, value), color in zip(parts, SOURCES * 2, strict=False):
            handles.append(axes.barh([0], [value / 1e9], left=start / 1e9, height=0.5, color=color, label=name))
            start += value
        for at, text, align in ((usable, "limit of the plan", "right"), (total, "device", "left")):
            axes.axvline(
                at / 1e9, color=INK if at == total else SOFT, linewidth=1, linestyle="-" if at == total else (0, (4, 3))
            )
            label_point(
                axes,
                f"{text}: {formatting.byte_size(at)}",
                (at / 1e9, 0.36),
                (-4 if align == "right" else 4, 0),
                ha=align,
                color=SOFT,
                fontsize=8,
                annotation_clip=False,
            )
        axes.set_xlim(0, max(total, start) / 1e9 * 1.2)
        axes.set_ylim(-0.32, 0.52)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("GB on one device")
        axes.grid(visible=False)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=4,
            columnspacing=1.2,
            handlelength=0.9,
            handleheight=0.9,
        )
    return plot.svg


def plot_timeline(stages: Sequence[tuple[str, float]]) -> str:
    """One bar a stage, from its start to its end; stages that are too short to be seen get a mark."""
    total = sum(seconds for _, seconds in stages) or 1.0
    unit, name = (86400, "days") if total > 3 * 86400 else (3600, "hours") if total > 2 * 3600 else (60, "minutes")
    with svg_figure(0.5 + 0.25 * len(stages)) as (plot, axes):
        start = 0.0
        for index, (_, seconds) in enumerate(stages):
            axes.barh([index], [max(seconds, total / 400) / unit], left=start / unit, height=0.55, color=BLUE)
            end = start + seconds
            if end < 0.85 * total:
                at, offset, align, color = end, 5, "left", INK
            elif seconds > 0.2 * total:
                at, offset, align, color = end, -5, "right", "white"
            else:
                at, offset, align, color = start, -5, "right", INK
            label_point(
                axes, formatting.duration(seconds), (at / unit, index), (offset, 0), va="center", ha=align, color=color
            )
            start = end
        axes.set_yticks(range(len(stages)), [stage for stage, _ in stages])
        axes.set_xlim(0, total / unit * 1.04)
        axes.set_xlabel(f"{name} from the start")
        style_bar_axis(axes)
    return plot.svg


def plot_ranges(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """Expected values with their ranges: name, low, expected, high."""
    with svg_figure(0.35 + 0.27 * len(rows)) as (plot, axes):
        for index, (_, low, expected, high) in enumerate(rows):
            axes.plot([low, high], [index, index], color=PALE_BLUE, linewidth=7, solid_capstyle="butt")
            axes.plot([expected], [index], "o", color=BLUE, markersize=5)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.set_xlim(0, max(row[3] for row in rows) * 1.08)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        style_bar_axis(axes)
    return plot.svg
