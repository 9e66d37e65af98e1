"""Learning rate schedules: pure functions of the step.

Each maps the progress after warm-up, from 0 to 1, to a multiplier of the peak learning rate.
"""

import math


def constant(progress: float, min_ratio: float, decay_fraction: float) -> float:
    return 1.0


def linear(progress: float, min_ratio: float, decay_fraction: float) -> float:
    return 1.0 - (1.0 - min_ratio) * progress


def cosine(progress: float, min_ratio: float, decay_fraction: float) -> float:
    """Half a cosine from 1 to `min_ratio` (Loshchilov and Hutter 2017)."""
    return min_ratio + (1.0 - min_ratio) * (1 + math.cos(math.pi * progress)) / 2


def warmup_stable_decay(progress: float, min_ratio: float, decay_fraction: float) -> float:
    """Constant, then linear to `min_ratio` over the last `decay_fraction` of the steps (Hu et al. 2024, MiniCPM, section 4)."""
    start = 1 - decay_fraction
    return 1.0 if progress < start else 1.0 - (1.0 - min_ratio) * (progress - start) / decay_fraction


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "warmup-stable-decay": warmup_stable_decay}


def lr_multiplier(
    step: int,
    steps: int,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    min_ratio: float = 0.1,
    decay_fraction: float = 0.4,
) -> float:
    """Multiplier of the peak learning rate at `step` (from 0) of `steps`: linear warm-up, then one of SCHEDULES.

    The first step has 1 / (warmup_steps + 1), the last one `min_ratio` (except with a constant schedule).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return SCHEDULES[schedule](min(progress, 1.0), min_ratio, decay_fraction)
