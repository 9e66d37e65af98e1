"""Small beginnings: a batch, or a sequence, that doubles on the way to its full size. Pure functions of the step.

A small batch learns more from a token while the gradient is still the same everywhere (McCandlish et al. 2018, "An
Empirical Model of Large-Batch Training"; GPT-3 grew its batch, Brown et al. 2020, section 2.3). Short sequences make the
first steps stable and cheap (Li et al. 2021, "The Stability-Efficiency Dilemma").
"""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class Growth:
    """From `first` to `full` by doubling, at even intervals over `steps` steps; from then on `full`.

    Raises UserError when `full` is not `first` doubled a whole number of times.
    """

    full: int
    first: int | None = None
    steps: int = 0
    name: str = "size"

    def __post_init__(self) -> None:
        if self.first is not None and (self.first < 1 or self.first << self.doublings != self.full):
            raise UserError(
                f"{self.name} = {self.first}: {self.full} is not that, doubled a whole number of times",
                hint=f"set {self.name} to {self.full} divided by 2, 4, 8, ...",
            )

    @property
    def doublings(self) -> int:
        return 0 if self.first is None else (self.full // max(1, self.first)).bit_length() - 1

    def size(self, step: int) -> int:
        """The size at `step`, counted from 0."""
        if step >= self.steps or self.doublings == 0:
            return self.full
        return self.full >> (self.doublings - step * self.doublings // self.steps)

    def before(self, step: int) -> int:
        """The sizes of all earlier steps together."""
        small = min(step, self.steps) if self.doublings else 0
        total = (step - small) * self.full
        for stage in range(self.doublings):  # the steps whose size has been doubled `stage` times
            begin, end = (-(-at * self.steps // self.doublings) for at in (stage, stage + 1))
            total += max(0, min(small, end) - begin) * (self.full >> (self.doublings - stage))
        return total
