"""Smoothing and downsampling of metric curves for plots."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy

MAX_CURVE_POINTS = 800
"""Default number of points of a plotted curve."""

FloatSequence = Sequence[float] | Any
"""A list or an array."""


def smooth(values: FloatSequence) -> list[float]:
    """Centered moving average over about a fortieth of the values, with shorter windows at the ends."""
    radius = max(1, len(values) // 80)
    sums = numpy.concatenate([[0.0], numpy.cumsum(values, dtype=numpy.float64)])
    indices = numpy.arange(len(values))
    begins, ends = numpy.maximum(indices - radius, 0), numpy.minimum(indices + radius + 1, len(values))
    return ((sums[ends] - sums[begins]) / (ends - begins)).tolist()


def downsample(
    at: FloatSequence, values: FloatSequence, max_points: int = MAX_CURVE_POINTS
) -> tuple[list[float], list[float]]:
    """At most `max_points` (>= 4) points: the first, the last, and the minimum and maximum of intervals between."""
    steps, heights = numpy.asarray(at), numpy.asarray(values)
    if len(steps) > max_points:
        edges = numpy.linspace(0, len(steps), max(1, max_points // 2 - 1) + 1).astype(int)
        intervals = list(pairwise(edges.tolist()))
        lows = [begin + int(heights[begin:end].argmin()) for begin, end in intervals]
        highs = [begin + int(heights[begin:end].argmax()) for begin, end in intervals]
        chosen = numpy.unique([0, *lows, *highs, len(steps) - 1])
        steps, heights = steps[chosen], heights[chosen]
    return steps.tolist(), heights.tolist()
