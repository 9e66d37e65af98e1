"""Batch size and sequence length warmup by doubling.

Small batches are more efficient early in training (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training";
Brown et al. 2020, section 2.3). Short sequences make the first steps stable and cheap (Li et al. 2021, "The
Stability-Efficiency Dilemma").
"""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class SizeWarmup:
    """A size that doubles from `initial` to `final` at even intervals over `warmup_steps` steps.

    Raises UserError unless `final` is `initial` times a power of two.
    """

    final: int
    initial: int | None = None
    warmup_steps: int = 0
    knob_name: str = "size"

    def __post_init__(self) -> None:
        if self.initial is None:
            return
        if not 1 <= self.initial <= self.final or self.initial << self.num_doublings != self.final:
            raise UserError(
                f"{self.knob_name} = {self.initial}: {self.final} is not a power of two times that",
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
        """Sum of the sizes of all steps before `step`."""
        small = min(step, self.warmup_steps) if self.num_doublings else 0
        total = (step - small) * self.final
        for stage in range(self.num_doublings):
            begin, end = (-(-at * self.warmup_steps // self.num_doublings) for at in (stage, stage + 1))
            total += max(0, min(small, end) - begin) * (self.final >> (self.num_doublings - stage))
        return total
