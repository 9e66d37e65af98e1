"""Batch size and sequence length warmup by doubling.

Small batches are more efficient early in training (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training";
Brown et al. 2020, section 2.3). Short sequences make the first steps stable and cheap (Li et al. 2021, "The
Stability-Efficiency Dilemma").
"""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError
from groundup.recipe.train_config import TrainConfig


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


def initial_sequences(train: TrainConfig, sequence_length: int) -> int | None:
    """Sequences in the first batch. Raises UserError if train.initial_batch_tokens is not a whole number of them."""
    first = train.initial_batch_tokens
    if first is not None and first % sequence_length:
        raise UserError(
            f"train.initial_batch_tokens = {first}: not a whole number of sequences of {sequence_length} tokens",
            hint=f"set train.initial_batch_tokens={max(1, first // sequence_length) * sequence_length}",
        )
    return first and first // sequence_length


def check_data_ranks(batch: SizeWarmup, num_ranks: int, sequence_length: int) -> None:
    """Raises UserError if the ranks cannot share the sequences of every batch evenly."""
    if batch.size_at(0) % num_ranks:
        divisible = -(-batch.final // num_ranks) * num_ranks * sequence_length
        raise UserError(
            f"a batch of {batch.size_at(0)} sequences is not divisible by {num_ranks} data parallel ranks",
            hint=f"train.batch_tokens={divisible}, which is {divisible // sequence_length} sequences"
            if batch.initial is None
            else "raise train.initial_batch_tokens",
        )
