"""Plots of training and evaluation. Each function takes plain numbers and returns an SVG."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from groundup.report.curves import downsample, smooth
from groundup.report.plot_style import (
    BLUE,
    INK,
    PALE_BLUE,
    RULE,
    RUST,
    SOFT,
    label_point,
    legend_above,
    style_bar_axis,
    svg_figure,
)

Bar = tuple[str, float, Sequence[float] | None]
"""Name, value, and bounds of its interval, if any."""


def plot_training(steps: Sequence[Mapping[str, float]]) -> str:
    """Training loss and learning rate over steps."""
    with svg_figure(3.1, rows=2, height_ratios=(2.6, 1), sharex=True) as (plot, (above, below)):
        applied = [row for row in steps if row["loss"] is not None and "skipped" not in row]
        at = [row["step"] + 1 for row in applied]
        loss = [row["loss"] for row in applied]
        above.plot(*downsample(at, loss), color=BLUE, linewidth=0.6, alpha=0.35)
        above.plot(*downsample(at, smooth(loss)), color=BLUE)
        above.set_ylabel("loss (nats per token)")
        final = smooth(loss)[-1]
        _mark_end(above, at[-1], final, f"{final:.2f}", BLUE)
        below.plot(*downsample(at, [row["learning_rate"] for row in applied]), color=RUST)
        below.set_ylabel("learning\nrate")
        peak = max(row["learning_rate"] for row in steps)
        below.set_ylim(0, 1.12 * peak)
        below.set_yticks([0, peak], ["0", f"{peak:.2g}"])
        _steps_axis(below, at)
        plot.align_ylabels()
    return plot.svg


def plot_validation(evaluations: Sequence[Mapping[str, float]], baselines: Mapping[str, float]) -> str:
    """Bits per byte of held-out text over steps, with horizontal lines for `baselines`."""
    with svg_figure(2.3) as (plot, axes):
        at, bits = [row["step"] for row in evaluations], [row["bits_per_byte"] for row in evaluations]
        axes.plot(at, bits, color=BLUE, marker="o", markersize=3.2)
        low, high = min(bits), max(bits)
        for name, level in baselines.items():
            if low * 0.9 < level < high * 1.15:
                axes.axhline(level, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
                label_point(axes, name, (1, level), (0, 3), xycoords=axes.get_yaxis_transform(), ha="right", color=SOFT)
        _mark_end(axes, at[-1], bits[-1], f"{bits[-1]:.2f}", BLUE)
        axes.set_ylabel("bits per byte")
        _steps_axis(axes, at)
    return plot.svg


def plot_task_scores(evaluations: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> str:
    """Scores of tasks over steps, one curve each."""
    with svg_figure(2.3) as (plot, axes):
        at = [row["step"] for row in evaluations]
        for metric in metrics:
            axes.plot(at, [row[metric] for row in evaluations], marker="o", markersize=3.2, label=metric)
        axes.set_ylabel("score")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, handletextpad=0.4)
        _steps_axis(axes, at)
    return plot.svg


def plot_preferences(evaluations: Sequence[Mapping[str, float]]) -> str:
    """Accuracy on held-out preferences, and the rewards of better and worse answers, over steps."""
    with svg_figure(3.4, rows=2, sharex=True) as (plot, (above, below)):
        at = [row["step"] for row in evaluations]
        accuracy = [row["accuracy"] for row in evaluations]
        above.plot(at, accuracy, color=BLUE, marker="o", markersize=3.2)
        above.axhline(0.5, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        above.set_ylim(min(0.4, *accuracy), 1.02)
        above.set_ylabel("accuracy")
        _mark_end(above, at[-1], accuracy[-1], f"{accuracy[-1]:.2f}", BLUE)
        for name, color in (("chosen", BLUE), ("rejected", RUST)):
            below.plot(
                at, [row[f"{name}_reward"] for row in evaluations], color=color, marker="o", markersize=3.2, label=name
            )
        below.set_ylabel("reward")
        legend_above(below)
        _steps_axis(below, at)
        plot.align_ylabels()
    return plot.svg


def plot_rewards(curve: Mapping[str, Sequence[float]], evaluations: Sequence[Mapping[str, float]]) -> str:
    """Reward of sampled answers and share of solved held-out problems over steps; below, tokens of an answer."""
    with svg_figure(3.1, rows=2, height_ratios=(2.6, 1), sharex=True) as (plot, (above, below)):
        at = [step + 1 for step in curve["step"]]
        above.plot(at, curve["reward"], color=BLUE, linewidth=0.6, alpha=0.35)
        smoothed = smooth(curve["reward"])
        above.plot(at, smoothed, color=BLUE, label="mean reward")
        _mark_end(above, at[-1], smoothed[-1], f"{smoothed[-1]:.2f}", BLUE)
        if evaluations:
            steps, solved = ([row[name] for row in evaluations] for name in ("step", "accuracy"))
            above.plot(steps, solved, color=RUST, marker="o", markersize=3.2, label="held-out problems solved")
        above.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, handletextpad=0.4)
        below.plot(at, curve["answer_tokens"], color=SOFT)
        below.set_ylabel("tokens of\nan answer")
        _steps_axis(below, at)
        plot.align_ylabels()
    return plot.svg


def plot_bars(
    rows: Sequence[Bar],
    label: str = "",
    *,
    highlighted: str = "",
    format_value: Callable[[float], str] = lambda value: f"{value:.2f}",
) -> str:
    """Horizontal bars with values and intervals, from top to bottom.

    Args:
        label: of the value axis.
        highlighted: name of the one highlighted bar; default: all.
    """
    with svg_figure((0.32 if label else 0.12) + 0.25 * len(rows)) as (plot, axes):
        names = [name for name, _, _ in rows]
        values = [value for _, value, _ in rows]
        colors = [BLUE if name == highlighted or not highlighted else PALE_BLUE for name in names]
        axes.barh(range(len(rows)), values, height=0.62, color=colors)
        longest = max([*values, *(bounds[1] for _, _, bounds in rows if bounds)])
        for index, (_, value, bounds) in enumerate(rows):
            end = value
            if bounds:
                axes.plot(bounds, [index, index], color=INK, linewidth=1.1, solid_capstyle="butt")
                end = max(value, bounds[1])
            label_point(axes, format_value(value), (end, index), (5, 0), va="center", color=INK)
        axes.set_yticks(range(len(rows)), names)
        axes.set_xticks([])
        axes.set_xlim(0, (longest or 1.0) * 1.14)
        axes.set_xlabel(label, loc="left")
        axes.spines["bottom"].set_visible(False)
        style_bar_axis(axes)
        axes.grid(visible=False)
    return plot.svg


def plot_reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Share of right predictions over their probability, a point for each bin of {"confidence", "accuracy", "tokens"}."""
    with svg_figure(2.6) as (plot, axes):
        total = sum(row["tokens"] for row in bins)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.scatter(
            [row["confidence"] for row in bins],
            [row["accuracy"] for row in bins],
            s=[8 + 240 * row["tokens"] / total for row in bins],
            color=BLUE,
            alpha=0.8,
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("probability of the likeliest token")
        axes.set_ylabel("share that is right")
    return plot.svg


def plot_layer_errors(names: Sequence[str], chosen: Sequence[float], nearest: Sequence[float], method: str) -> str:
    """Relative output error of each quantized matrix, for a method and for rounding to nearest."""
    with svg_figure(2.2) as (plot, axes):
        at = range(1, len(names) + 1)
        axes.vlines(at, chosen, nearest, color=RULE, linewidth=1.2)
        axes.plot(at, nearest, "o", color=RUST, markersize=3.4, label="round to nearest")
        axes.plot(at, chosen, "o", color=BLUE, markersize=3.4, label=method)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("matrix, in the order of the model")
        axes.set_ylabel("relative output error")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, handletextpad=0.2)
    return plot.svg


def _steps_axis(axes: Axes, at: Sequence[float]) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(0, max(at) * 1.06)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _mark_end(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.plot([x], [y], "o", color=color, markersize=4)
    label_point(axes, text, (x, y), (5, 0), va="center", color=color, fontsize=9)
