"""Worlds of gloo ranks on this machine.

A rank is forked from a server that has imported torch already, which takes a tenth of a second and not three; so every
case has a world of its own, and none inherits what another has left in torch's caches.
"""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from queue import Empty
from typing import Any

SECONDS = 120
"""For one case; collectives give up before that."""


class RankFailed(Exception):
    """What a rank met, with its trace."""


def run_ranks(ranks: int, function: Callable[[Any], Any], argument: Any) -> Any:
    """What `function(argument)` returns on rank 0 of `ranks`. Raises Failed with what rank 0 met."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["equivalence"])
    results = context.Queue()
    with tempfile.TemporaryDirectory() as meeting:
        place = f"file://{meeting}/point"
        processes = [
            context.Process(target=_rank, args=(rank, ranks, place, function, argument, results), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            answer = results.get(timeout=SECONDS)
        except Empty:
            answer = RankFailed(f"no answer from rank 0 in {SECONDS} seconds")
        for process in processes:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()
    if isinstance(answer, RankFailed):
        raise answer
    return answer


def _rank(
    rank: int, ranks: int, place: str, function: Callable[[Any], Any], argument: Any, results: Any
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=place, rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    try:
        answer: Any = function(argument)
    except Exception as error:
        answer = RankFailed(f"{error}\n{traceback.format_exc()}")
    finally:
        dist.destroy_process_group()
    if rank == 0:
        results.put(answer)
