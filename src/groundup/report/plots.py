"""The drawings of a report: one quiet style, colours that everyone can tell apart, direct labels where there is room.

Each function takes plain numbers and returns an SVG. Text stays text in the report's own typeface, which Typst has; a
browser takes the nearest serif it finds. The same numbers give the same bytes.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it tells of the font cache that it makes once

import matplotlib  # noqa: E402

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # noqa: E402

from groundup.report import wording  # noqa: E402
from groundup.report.curves import smooth, thin  # noqa: E402

INK, SOFT, RULE, PALE = "#24272c", "#6a7079", "#d5d9de", "#e9ecef"
BLUE, PALE_BLUE, RUST = "#1f5a85", "#b9c3cc", "#c4622d"
SOURCES = ("#1f5a85", "#d99a3d", "#4f9a86", "#9c6390", "#7f8c3a", "#8f6a4a", "#6a7079")
REASONS = ("#d99a3d", "#c4622d", "#8c99a6", "#bcc5cd", "#9c6390", "#7f8c3a", "#dfe3e7")
"""Told apart with any kind of colour vision, and in grey by their lightness."""

MEASURED_IN = ["STIXGeneral", "DejaVu Serif", "DejaVu Sans"]
"""What matplotlib has, as wide as the typeface that is meant: the report's own is inside Typst."""
SHOWN_IN = "'Libertinus Serif', 'Linux Libertine O', 'Iowan Old Style', Palatino, Georgia, serif"

WIDTH = 6.2
"""Inches: the width of the report's text, so that nine points are nine points."""

STYLE: Any = {
    "font.family": MEASURED_IN,
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "groundup",
    "path.simplify": True,
}

Bar = tuple[str, float, Sequence[float] | None]
"""A name, a value, and the two ends of its interval if it has one."""


def learning(steps: Sequence[Mapping[str, float]]) -> str:
    """Training loss over the steps, with the learning rate beneath."""
    with _drawing(3.1, rows=2, height_ratios=(2.6, 1), sharex=True) as (drawing, (above, below)):
        at = [row["step"] + 1 for row in steps]
        loss = [row["loss"] for row in steps]
        above.plot(*thin(at, loss), color=BLUE, linewidth=0.6, alpha=0.35)
        above.plot(*thin(at, smooth(loss)), color=BLUE)
        above.set_ylabel("loss (nats per token)")
        final = smooth(loss)[-1]
        _mark_end(above, at[-1], final, f"{final:.2f}", BLUE)
        below.plot(*thin(at, [row["learning_rate"] for row in steps]), color=RUST)
        below.set_ylabel("learning\nrate")
        peak = max(row["learning_rate"] for row in steps)
        below.set_ylim(0, 1.12 * peak)
        below.set_yticks([0, peak], ["0", f"{peak:.2g}"])
        _steps_axis(below, at)
        drawing.align_ylabels()
    return drawing.svg


def held_out(probes: Sequence[Mapping[str, float]], marks: Mapping[str, float]) -> str:
    """Bits per byte of held-out text while the model learns; `marks` are levels to compare with, by name."""
    with _drawing(2.3) as (drawing, axes):
        at, bits = [probe["step"] for probe in probes], [probe["bits_per_byte"] for probe in probes]
        axes.plot(at, bits, color=BLUE, marker="o", markersize=3.2)
        low, high = min(bits), max(bits)
        for name, level in marks.items():
            if low * 0.9 < level < high * 1.15:
                axes.axhline(level, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
                axes.annotate(
                    name, (1, level), xycoords=axes.get_yaxis_transform(), xytext=(0, 3), textcoords="offset points",
                    ha="right", color=SOFT, fontsize=8.5,
                )  # fmt: skip
        _mark_end(axes, at[-1], bits[-1], f"{bits[-1]:.2f}", BLUE)
        axes.set_ylabel("bits per byte")
        _steps_axis(axes, at)
    return drawing.svg


def funnel(rows: Mapping[str, tuple[float, Mapping[str, float]]]) -> str:
    """What became of each source: name -> (share kept, {reason: share dropped}); the shares of a row add up to 1."""
    names = list(rows)
    totals: dict[str, float] = {}
    for _, dropped in rows.values():
        for reason, part in dropped.items():
            totals[reason] = totals.get(reason, 0) + part
    order = sorted(totals, key=lambda reason: -totals[reason])
    shown, others = order[: len(REASONS) - 1], order[len(REASONS) - 1 :]
    with _drawing(0.75 + 0.32 * len(names)) as (drawing, axes):
        left = [0.0] * len(names)

        def put(parts: list[float], color: str, label: str) -> None:
            axes.barh(
                names,
                parts,
                left=left,
                height=0.62,
                color=color,
                label=label,
                edgecolor="white",
                linewidth=0.6,
            )
            left[:] = [a + b for a, b in zip(left, parts, strict=True)]

        put([kept for kept, _ in rows.values()], BLUE, "kept")
        for reason, color in zip(shown, REASONS, strict=False):
            put([dropped.get(reason, 0) for _, dropped in rows.values()], color, reason)
        if others:
            put(
                [sum(dropped.get(r, 0) for r in others) for _, dropped in rows.values()],
                REASONS[-1],
                "other reasons",
            )
        for index, (kept, _) in enumerate(rows.values()):
            if kept > 0.08:  # else there is no room for it
                axes.annotate(
                    wording.share(kept, 1), (0, index), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8,
                    color="white",
                )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        _plain_rows(axes)
        axes.grid(visible=False)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=4,
            columnspacing=1.2,
            handlelength=0.9,
            handleheight=0.9,
        )
    return drawing.svg


def mixture(parts: Mapping[str, float]) -> str:
    """What the training tokens are made of: name -> tokens, as one bar."""
    whole = sum(parts.values()) or 1.0
    with _drawing(0.78) as (drawing, axes):
        left = 0.0
        for index, (name, part) in enumerate(sorted(parts.items(), key=lambda item: -item[1])):
            wide = part / whole
            axes.barh(
                [0], [wide], left=left, height=1, color=SOURCES[index % len(SOURCES)], edgecolor="white"
            )
            if wide > 0.04:
                axes.annotate(
                    f"{name}\n{wording.share(part, whole)}", (left, -0.5), xytext=(1, -4), textcoords="offset points",
                    ha="left", va="top", fontsize=8.5, linespacing=1.3,
                )  # fmt: skip
            left += wide
        axes.set_xlim(0, 1)
        axes.set_ylim(-1.7, 0.5)
        axes.axis("off")
    return drawing.svg


def bars(
    rows: Sequence[Bar],
    label: str = "",
    *,
    emphasised: str = "",
    told: Callable[[float], str] = lambda value: f"{value:.2f}",
) -> str:
    """Horizontal bars with their values and intervals, in the given order from top to bottom.

    Args:
        label: what the values are.
        emphasised: the name of the bar that the others stand beside; default: all are alike.
        told: a value in words.
    """
    with _drawing((0.32 if label else 0.12) + 0.25 * len(rows)) as (drawing, axes):
        names = [name for name, _, _ in rows]
        values = [value for _, value, _ in rows]
        colors = [BLUE if name == emphasised or not emphasised else PALE_BLUE for name in names]
        axes.barh(range(len(rows)), values, height=0.62, color=colors)
        longest = max([*values, *(edges[1] for _, _, edges in rows if edges)])
        for index, (_, value, edges) in enumerate(rows):
            end = value
            if edges:
                axes.plot(edges, [index, index], color=INK, linewidth=1.1, solid_capstyle="butt")
                end = max(value, edges[1])
            axes.annotate(
                told(value), (end, index), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), names)
        axes.set_xticks([])
        axes.set_xlim(0, (longest or 1.0) * 1.14)
        axes.set_xlabel(label, loc="left")
        axes.spines["bottom"].set_visible(False)
        _plain_rows(axes)
        axes.grid(visible=False)
    return drawing.svg


def layer_errors(names: Sequence[str], chosen: Sequence[float], nearest: Sequence[float], method: str) -> str:
    """Share of each layer's output that is error, for a method and for rounding to nearest."""
    with _drawing(2.2) as (drawing, axes):
        at = range(1, len(names) + 1)
        axes.vlines(at, chosen, nearest, color=RULE, linewidth=1.2)
        axes.plot(at, nearest, "o", color=RUST, markersize=3.4, label="round to nearest")
        axes.plot(at, chosen, "o", color=BLUE, markersize=3.4, label=method)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("layer, from the first block to the last")
        axes.set_ylabel("error of the output")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, handletextpad=0.2)
    return drawing.svg


class _Drawing:
    svg = ""

    def __init__(self, figure: Figure):
        self.align_ylabels = figure.align_ylabels


@contextmanager
def _drawing(height: float, rows: int = 1, **options: Any) -> Iterator[tuple[_Drawing, Any]]:
    """A figure of the text's width; when the block ends, its SVG is in `drawing.svg`."""
    ratios = options.pop("height_ratios", None)
    with pyplot.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that only the report's own typeface has
        figure, axes = pyplot.subplots(
            rows, figsize=(WIDTH, height), layout="constrained", height_ratios=ratios, **options
        )  # fmt: skip
        drawing = _Drawing(figure)
        try:
            yield drawing, axes
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(figure)
    quoted = ", ".join(f"'{family}'" for family in MEASURED_IN)
    drawing.svg = file.getvalue().replace(quoted, SHOWN_IN)


def _plain_rows(axes: Axes) -> None:
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)


def _steps_axis(axes: Axes, at: Sequence[float]) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(0, max(at) * 1.06)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _mark_end(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.plot([x], [y], "o", color=color, markersize=4)
    axes.annotate(
        text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", color=color, fontsize=9
    )
