"""A long row of noisy numbers made fit to be drawn: smooth, and no more points than are seen."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy

MAX_CURVE_POINTS = 800
"""Points of a curve: more are not seen, and would make a file large."""

FloatSequence = Sequence[float] | Any
"""A list, or what numpy takes for one."""


def smooth(values: FloatSequence) -> list[float]:
    """The mean of each value's neighbourhood, about a fortieth of all, cut off at the ends."""
    reach = max(1, len(values) // 80)
    sums = numpy.concatenate([[0.0], numpy.cumsum(values, dtype=numpy.float64)])
    places = numpy.arange(len(values))
    begins, ends = numpy.maximum(places - reach, 0), numpy.minimum(places + reach + 1, len(values))
    return ((sums[ends] - sums[begins]) / (ends - begins)).tolist()


def downsample(
    at: FloatSequence, values: FloatSequence, max_points: int = MAX_CURVE_POINTS
) -> tuple[list[float], list[float]]:
    """At most `most` points, four or more, with the first and the last: of each stretch its lowest and its highest, so
    that no spike is lost.
    """
    steps, heights = numpy.asarray(at), numpy.asarray(values)
    if len(steps) > max_points:
        edges = numpy.linspace(0, len(steps), max(1, max_points // 2 - 1) + 1).astype(int)
        stretches = list(pairwise(edges.tolist()))
        lows = [begin + int(heights[begin:end].argmin()) for begin, end in stretches]
        highs = [begin + int(heights[begin:end].argmax()) for begin, end in stretches]
        chosen = numpy.unique([0, *lows, *highs, len(steps) - 1])
        steps, heights = steps[chosen], heights[chosen]
    return steps.tolist(), heights.tolist()
