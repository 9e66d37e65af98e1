"""Run a function on several gloo ranks of this machine.

Ranks are forked from a server that has imported torch, which takes a tenth of a second instead of three. Every call has
new processes, so that none inherits torch's caches of another.
"""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from queue import Empty
from typing import Any

TIMEOUT_SECONDS = 120


class RankFailed(Exception):
    """The error of rank 0, with its traceback."""


def run_ranks(ranks: int, function: Callable[[Any], Any], argument: Any) -> Any:
    """The return value of `function(argument)` on rank 0 of `ranks`. Raises RankFailed with the error of rank 0."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["equivalence"])
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{folder}/rendezvous"
        processes = [
            context.Process(target=_rank, args=(rank, ranks, address, function, argument, results), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            result = results.get(timeout=TIMEOUT_SECONDS)
        except Empty:
            result = RankFailed(f"no result from rank 0 in {TIMEOUT_SECONDS} seconds")
        for process in processes:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()
    if isinstance(result, RankFailed):
        raise result
    return result


def _rank(rank: int, ranks: int, address: str, function: Callable[[Any], Any], argument: Any, results: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    try:
        result: Any = function(argument)
    except Exception as error:
        result = RankFailed(f"{error}\n{traceback.format_exc()}")
    finally:
        dist.destroy_process_group()
    if rank == 0:
        results.put(result)
