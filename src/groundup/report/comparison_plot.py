"""Picture of a comparison: scores with intervals, and differences from the first entry beside what could have been seen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from groundup.report.plot_style import BLUE, INK, PALE, RUST, SOFT, style_bar_axis, svg_figure

if TYPE_CHECKING:
    from groundup.evaluate.comparison import MeasureComparison


def plot_comparison(comparisons: Sequence["MeasureComparison"]) -> str:
    """SVG with a row of two panels for each measure."""
    rows = len(comparisons)
    heights = [0.55 + 0.24 * len(comparison.entries) for comparison in comparisons]
    with svg_figure(sum(heights) + 0.2 * rows, rows, 2, height_ratios=heights, squeeze=False) as (plot, axes):
        for (scores, differences), comparison in zip(axes, comparisons, strict=True):
            _plot_scores(scores, comparison)
            _plot_differences(differences, comparison)
    return plot.svg


def _plot_scores(axes: Axes, comparison: "MeasureComparison") -> None:
    for row, entry in enumerate(comparison.entries):
        if entry.interval:
            axes.plot(entry.interval, [row, row], color=INK, linewidth=1.1, solid_capstyle="butt")
        if len(entry.seed_scores) > 1:
            axes.plot(entry.seed_scores, [row] * len(entry.seed_scores), "|", color=SOFT, markersize=5)
        axes.plot(entry.score, row, "o", color=BLUE, markersize=4)
    better = "lower" if comparison.lower_is_better else "higher"
    axes.set_title(f"{comparison.task}: {comparison.metric} ({better} is better)")
    axes.set_yticks(range(len(comparison.entries)), [entry.name for entry in comparison.entries])
    axes.set_ylim(-0.6, len(comparison.entries) - 0.4)
    style_bar_axis(axes)


def _plot_differences(axes: Axes, comparison: "MeasureComparison") -> None:
    for row, entry in enumerate(comparison.entries):
        if (found := entry.difference) is None:
            continue
        if found.smallest_visible is not None:
            axes.barh(row, 2 * found.smallest_visible, left=-found.smallest_visible, height=0.62, color=PALE)
        if found.interval is not None:
            axes.plot(found.interval, [row, row], color=INK, linewidth=1.1, solid_capstyle="butt")
        axes.plot(found.difference, row, "o", color=RUST if found.is_visible else SOFT, markersize=4)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_title(f"difference from {comparison.entries[0].name}; grey: too small to see")
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(comparison.entries) - 0.4)
    style_bar_axis(axes)
