"""Losses that leave their course: seen before they touch the weights.

A batch that the model finds far harder than all before it, or arithmetic that overflowed, can throw a run back by
thousands of steps. PaLM (Chowdhery et al. 2022, section 5.1) went back to a checkpoint and left out the batches around
the spike, and found that the same batches elsewhere did no harm.
"""

import math
import statistics
from collections.abc import Sequence

WINDOW = 64
"""Steps that a loss is compared with."""
MIN_HISTORY = 16
"""Steps before which nothing is called a spike."""


def detect_spike(loss: float, earlier: Sequence[float], deviations: float) -> str | None:
    """What is wrong with `loss` after the `earlier` losses, or None.

    It must not be more than `deviations` standard deviations above the mean of the last WINDOW steps.
    """
    if not math.isfinite(loss):
        return f"loss {loss}"
    recent = [value for value in earlier[-WINDOW:] if math.isfinite(value)]
    if len(recent) < MIN_HISTORY:
        return None
    mean, deviation = statistics.fmean(recent), statistics.stdev(recent)
    if loss <= mean + deviations * deviation:
        return None
    return f"loss {loss:.3f}, {(loss - mean) / max(deviation, 1e-12):.0f} deviations above the last {len(recent)} steps"
