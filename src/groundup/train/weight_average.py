"""Weight averaging: exponential moving average, or mean over the last part of a run.

Exponential over about the last 1 / (1 - decay) steps (Polyak and Juditsky 1992); or uniform over the tail, equivalent to
averaging checkpoints (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima"; Kaddour 2022, "Stop Wasting My
Time!").
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from groundup.recipe.train_config import TrainConfig


class WeightAverage:
    """The mean of `weights` over updates, in float32.

    Args:
        kind: ema or tail.
        start_update: updates before the first that counts.
    """

    def __init__(self, weights: Mapping[str, Tensor], kind: str, decay: float, start_update: int):
        self.kind, self.decay, self.start_update = kind, decay, start_update
        self.updates = 0
        self._weights = list(weights.values())
        self.tensors = {name: weight.detach().float().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights, after an optimizer step."""
        self.updates += 1
        counted = self.updates - self.start_update
        if counted < 1:
            return
        weight_of_new = 1 / counted if self.kind == "tail" else 1 - min(self.decay, (1 + counted) / (10 + counted))
        for mean, weight in zip(self.tensors.values(), self._weights, strict=True):
            mean.lerp_(weight.detach().float(), weight_of_new)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        before = [weight.detach().clone() for weight in self._weights]
        self.copy_to_model()
        try:
            yield
        finally:
            self._assign(before)

    def copy_to_model(self) -> None:
        """Replace the weights by their mean, if there is one yet."""
        if self.updates > self.start_update:
            self._assign(list(self.tensors.values()))

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)


def build_weight_average(weights: Mapping[str, Tensor], settings: TrainConfig) -> WeightAverage | None:
    """The average that the recipe asks for, or None."""
    if settings.weight_averaging == "none":
        return None
    steps = settings.steps or 0
    start = steps - round(steps * settings.tail_fraction) if settings.weight_averaging == "tail" else 0
    return WeightAverage(weights, settings.weight_averaging, settings.ema_decay, start)
