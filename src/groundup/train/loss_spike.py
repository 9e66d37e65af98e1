"""Loss-spike detection, before the optimizer step.

A bad batch or numeric overflow can set a run back by thousands of steps. PaLM (Chowdhery et al. 2022, section 5.1)
returned to a checkpoint and skipped the batches around the spike; the same batches did no harm at another time.
"""

import math
import statistics
from collections.abc import Sequence

WINDOW = 64
"""Losses that a new one is compared with."""
MIN_HISTORY = 16
"""Losses needed before detection starts."""


def detect_spike(loss: float, earlier: Sequence[float], deviations: float) -> str | None:
    """A description of the problem if `loss` is not finite or a spike, else None.

    A spike is more than `deviations` standard deviations above the mean of the last WINDOW losses.
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
