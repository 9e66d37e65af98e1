"""Prefetching: independent of the number of threads, made ahead, errors at their own step."""

import threading

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.train.prefetch import Prefetcher


class Numbered:
    """Tells which steps were made, and fails where it is told to."""

    def __init__(self, fails_at: int | None = None):
        self.made: list[int] = []
        self.events = [threading.Event() for _ in range(20)]
        self.fails_at = fails_at

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        self.made.append(step)
        self.events[step].set()
        if step == self.fails_at:
            raise UserError(f"step {step}: no tokens")
        return {"tokens": torch.arange(step, step + 6).view(2, 3)}


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_any_number_of_threads_gives_the_same_batches(threads: int):
    with Prefetcher(Numbered(), steps=10, threads=threads) as batches:
        for step in (*range(6), 2, 3, 9, 15, 0):  # also after a jump back, to the end and beyond it
            assert torch.equal(batches.batch(step)["tokens"], Numbered().batch(step)["tokens"])


def test_next_batches_are_prefetched_once():
    source = Numbered()
    with Prefetcher(source, steps=4, threads=1) as batches:
        batches.batch(0)
        assert source.events[1].wait(30)
        assert source.events[2].wait(30)
        for step in (1, 2, 3):
            batches.batch(step)
    assert source.made == [0, 1, 2, 3]


def test_an_error_is_raised_at_its_own_step():
    source = Numbered(fails_at=2)
    with Prefetcher(source, steps=10, threads=1) as batches:
        batches.batch(0)
        assert source.events[2].wait(30)
        batches.batch(1)
        with pytest.raises(UserError, match="step 2: no tokens"):
            batches.batch(2)
        batches.batch(3)
