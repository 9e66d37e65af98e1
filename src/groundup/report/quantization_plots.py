"""Picture of quantized models: distance to the float model against size."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from groundup.report.plot_style import INK, SOFT, SOURCES, label_point, svg_figure


def plot_quality_against_size(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """KL divergence to the float model, or distance of the embeddings, against bytes, one point for each model; an SVG.

    Args:
        rows: of `groundup.quantize.method_comparison`; the row named "float" gives a vertical line.

    None if fewer than one row can be drawn.
    """
    points = [(row, quality) for row in rows if row["name"] != "float" and (quality := _distance(row)) > 0]
    if not points:
        return None
    methods = list(dict.fromkeys(row["name"].partition("-")[0] for row, _ in points))
    sizes = [row["bytes"] / 1e6 for row in rows]
    with svg_figure(3.2) as (plot, axes):
        for row, quality in points:
            method, _, kind = row["name"].partition("-")
            color, size = SOURCES[methods.index(method) % len(SOURCES)], row["bytes"] / 1e6
            if bounds := row.get("kl_interval"):
                axes.plot([size, size], [max(bounds[0], quality / 10), bounds[1]], color=color, linewidth=1)
            axes.plot([size], [quality], "o", color=color, markersize=5)
            label_point(axes, f"{method} {kind}".strip(), (size, quality), (6, 0), va="center", color=INK, fontsize=8)
        for row in rows:
            if row["name"] == "float":
                axes.axvline(row["bytes"] / 1e6, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
                top = (row["bytes"] / 1e6, 1)
                label_point(axes, "float", top, (-4, -9), xycoords=axes.get_xaxis_transform(), ha="right", color=SOFT)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.set_xlim(min(sizes) * 0.9, max(sizes) * 1.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("size of the weights (MB)")
        predicts = "kl_divergence" in points[0][0]
        axes.set_ylabel("KL divergence (nats)" if predicts else "1 - cosine of the embeddings")
    return plot.svg


def _distance(row: Mapping[str, Any]) -> float:
    return row["kl_divergence"] if "kl_divergence" in row else 1 - row.get("cosine", 1.0)
