"""Prefetching: the next batches are made in threads while a step computes.

Batches are pure functions of the step, so the number and timing of threads does not affect results. Threads instead of
processes: reading memory maps and object stores releases the GIL, and nothing has to be copied between processes.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from groundup.train.objectives import Batch


@runtime_checkable
class BatchSource(Protocol):
    """Batches as a pure function of the step, so that a resumed run gets the same ones."""

    def batch(self, step: int) -> Batch: ...


class Prefetcher:
    """`batches`, with the next ones made ahead.

    Args:
        steps: number of steps; no later batch is made.
        threads: number of threads; 0 makes each batch on request.
        pin_memory: put batches in pinned memory, for asynchronous copies to a GPU.
    """

    def __init__(self, batches: BatchSource, *, steps: int, threads: int = 1, pin_memory: bool = False):
        self._batches, self._steps, self._pin = batches, steps, pin_memory
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, "batches") if threads else None
        self._futures: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """The batch of `step`. Raises what making it raised."""
        if self._pool is None:
            return self._make_batch(step)
        upcoming = range(step, min(step + 1 + self._ahead, self._steps))
        for stale in self._futures.keys() - set(upcoming):  # after a rollback
            self._futures.pop(stale).cancel()
        for index in (step, *upcoming):
            if index not in self._futures:
                self._futures[index] = self._pool.submit(self._make_batch, index)
        return self._futures.pop(step).result()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _make_batch(self, step: int) -> Batch:
        batch = self._batches.batch(step)
        return {name: rows.pin_memory() for name, rows in batch.items()} if self._pin else batch
