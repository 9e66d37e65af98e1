"""Plot style of reports: colors, fonts, and figures as SVG.

Text stays text, in the report's typeface (included in Typst; browsers use the next available serif). Reproducible: equal
data give equal bytes.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # silences the font cache message

import matplotlib  # noqa: E402

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

INK, SOFT, RULE, PALE = "#24272c", "#6a7079", "#d5d9de", "#e9ecef"
BLUE, PALE_BLUE, RUST = "#1f5a85", "#b9c3cc", "#c4622d"
SOURCES = ("#1f5a85", "#d99a3d", "#4f9a86", "#9c6390", "#7f8c3a", "#8f6a4a", "#6a7079")
REASONS = ("#d99a3d", "#c4622d", "#8c99a6", "#bcc5cd", "#9c6390", "#7f8c3a", "#dfe3e7")
"""Distinguishable with color blindness, and by lightness in grayscale."""

MEASURING_FONTS = ["STIXGeneral", "DejaVu Serif", "DejaVu Sans"]
"""Fonts available to matplotlib with the metrics of the report's typeface."""
DISPLAY_FONTS = "'Libertinus Serif', 'Linux Libertine O', 'Iowan Old Style', Palatino, Georgia, serif"

WIDTH = 6.2
"""Text width of the report in inches, so that font sizes are true."""

STYLE: Any = {
    "font.family": MEASURING_FONTS,
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


class SvgFigure:
    """Result of `svg_figure`; `svg` is set at the end of its context."""

    svg = ""

    def __init__(self, figure: Figure):
        self.align_ylabels = figure.align_ylabels


@contextmanager
def svg_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[SvgFigure, Any]]:
    """Context with a figure of text width; at its end `figure.svg` is the SVG."""
    ratios = options.pop("height_ratios", None)
    with pyplot.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs missing in the measuring font
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(WIDTH, height), layout="constrained", height_ratios=ratios, **options
        )  # fmt: skip
        result = SvgFigure(figure)
        try:
            yield result, axes
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(figure)
    measured = ", ".join(f"'{family}'" for family in MEASURING_FONTS)
    result.svg = file.getvalue().replace(measured, DISPLAY_FONTS)


def label_point(axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write `text` at `offset` (in points) from a point of the plot."""
    axes.annotate(text, point, xytext=offset, textcoords="offset points", **{"fontsize": 8.5, **style})


def legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, columnspacing=1.2, handlelength=0.9, handleheight=0.9
    )


def style_bar_axis(axes: Axes) -> None:
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)
