"""Small beginnings: a batch, or a sequence, that doubles on the way to its full size. Pure functions of the step.

A small batch learns more from a token while the gradient is still the same everywhere (McCandlish et al. 2018, "An
Empirical Model of Large-Batch Training"; GPT-3 grew its batch, Brown et al. 2020, section 2.3). Short sequences make the
first steps stable and cheap (Li et al. 2021, "The Stability-Efficiency Dilemma").
"""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class SizeWarmup:
    """From `first` to `full` by doubling, at even intervals over `steps` steps; from then on `full`.

    Raises UserError when `full` is not `first` doubled a whole number of times.
    """

    final: int
    initial: int | None = None
    warmup_steps: int = 0
    knob_name: str = "size"

    def __post_init__(self) -> None:
        if self.initial is not None and (
            self.initial < 1 or self.initial << self.num_doublings != self.final
        ):
            raise UserError(
                f"{self.knob_name} = {self.initial}: {self.final} is not that, doubled a whole number of times",
                hint=f"set {self.knob_name} to {self.final} divided by 2, 4, 8, ...",
            )

    @property
    def num_doublings(self) -> int:
        return 0 if self.initial is None else (self.final // max(1, self.initial)).bit_length() - 1

    def size_at(self, step: int) -> int:
        """The size at `step`, counted from 0."""
        if step >= self.warmup_steps or self.num_doublings == 0:
            return self.final
        return self.final >> (self.num_doublings - step * self.num_doublings // self.warmup_steps)

    def total_before(self, step: int) -> int:
        """The sizes of all earlier steps together."""
        small = min(step, self.warmup_steps) if self.num_doublings else 0
        total = (step - small) * self.final
        for stage in range(self.num_doublings):  # the steps whose size has been doubled `stage` times
            begin, end = (-(-at * self.warmup_steps // self.num_doublings) for at in (stage, stage + 1))
            total += max(0, min(small, end) - begin) * (self.final >> (self.num_doublings - stage))
        return total
