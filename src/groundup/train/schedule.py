"""The course of the learning rate: pure functions of the step, so that any step can be recomputed.

Each maps how far training is after warm-up, from 0 to 1, to a share of the peak learning rate.
"""

import math

from groundup.recipe.train import TrainSection


def constant(done: float, final: float, decay: float) -> float:
    return 1.0


def linear(done: float, final: float, decay: float) -> float:
    return 1.0 - (1.0 - final) * done


def cosine(done: float, final: float, decay: float) -> float:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017)."""
    return final + (1.0 - final) * (1 + math.cos(math.pi * done)) / 2


def warmup_stable_decay(done: float, final: float, decay: float) -> float:
    """Flat, then linear to `final` over the last share `decay` of the steps (Hu et al. 2024, MiniCPM, section 4)."""
    return 1.0 if done < 1 - decay else 1.0 - (1.0 - final) * (done - (1 - decay)) / decay


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "warmup-stable-decay": warmup_stable_decay,
}


def learning_rate_share(step: int, steps: int, warmup_steps: int, train: TrainSection) -> float:
    """Share of the peak learning rate at `step` (0-based) of `steps`.

    The first step already learns, at 1 / (warmup_steps + 1) of the peak; the last one is at `final_learning_rate`.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return SCHEDULES[train.schedule](min(done, 1.0), train.final_learning_rate, train.decay_fraction)
