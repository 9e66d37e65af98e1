"""The course of the learning rate: pure functions of the step, so that any step can be recomputed.

Each maps how far training is after warm-up, from 0 to 1, to a share of the peak learning rate.
"""

import math

from groundup.recipe.train_config import TrainConfig


def constant(progress: float, min_ratio: float, decay_fraction: float) -> float:
    return 1.0


def linear(progress: float, min_ratio: float, decay_fraction: float) -> float:
    return 1.0 - (1.0 - min_ratio) * progress


def cosine(progress: float, min_ratio: float, decay_fraction: float) -> float:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017)."""
    return min_ratio + (1.0 - min_ratio) * (1 + math.cos(math.pi * progress)) / 2


def warmup_stable_decay(progress: float, min_ratio: float, decay_fraction: float) -> float:
    """Flat, then linear to `final` over the last share `decay` of the steps (Hu et al. 2024, MiniCPM, section 4)."""
    return (
        1.0
        if progress < 1 - decay_fraction
        else 1.0 - (1.0 - min_ratio) * (progress - (1 - decay_fraction)) / decay_fraction
    )


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "warmup-stable-decay": warmup_stable_decay,
}


def lr_multiplier(step: int, steps: int, warmup_steps: int, train: TrainConfig) -> float:
    """Share of the peak learning rate at `step` (0-based) of `steps`.

    The first step already learns, at 1 / (warmup_steps + 1) of the peak; the last one is at `final_learning_rate`.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return SCHEDULES[train.lr_schedule](min(done, 1.0), train.min_lr_ratio, train.decay_fraction)
