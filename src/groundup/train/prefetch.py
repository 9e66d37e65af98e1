"""Batches made ahead, in threads, while the step before them computes. That each is a pure function of its step is why
neither their number nor their timing can change a bit.

Threads and not processes: copying out of a memory map and waiting for an object store both let the interpreter go, and
nothing has to be sent from one process to another.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from groundup.train.objectives import Batch


class BatchSource(Protocol):
    """Where batches come from: a pure function of the step, so that a resumed run sees what the straight one saw."""

    def batch(self, step: int) -> Batch: ...


class Prefetcher:
    """The batches of `batches`, of which the next are made before they are asked for.

    Args:
        steps: no batch of this step or a later one is made ahead.
        threads: how many make batches; 0 makes each when it is asked for.
        pin: put them where a GPU copies from while it computes.
    """

    def __init__(self, batches: BatchSource, *, steps: int, threads: int = 1, pin_memory: bool = False):
        self._batches, self._steps, self._pin = batches, steps, pin_memory
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, "batches") if threads else None
        self._futures: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """The batch of `step`. Raises what making it raised, not before it is asked for."""
        if self._pool is None:
            return self._make_batch(step)
        wanted = range(step, min(step + 1 + self._ahead, self._steps))
        for other in self._futures.keys() - set(wanted):  # the loop went elsewhere: back to a checkpoint
            self._futures.pop(other).cancel()
        for number in (step, *wanted):
            if number not in self._futures:
                self._futures[number] = self._pool.submit(self._make_batch, number)
        return self._futures.pop(step).result()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _make_batch(self, step: int) -> Batch:
        batch = self._batches.batch(step)
        return {name: rows.pin_memory() for name, rows in batch.items()} if self._pin else batch
