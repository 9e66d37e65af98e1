"""What ranks do in the tests of how they meet, wait and end."""

import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import torch
import torch.distributed as dist

from groundup.artifacts.errors import AlreadyReported, UserError
from groundup.artifacts.rank_environment import rank
from groundup.parallel import rendezvous, stall_detector


def stall(seconds: float) -> str:
    """Rank 1 sleeps in its second step, and the others wait for its sum. What rank 0 tells meanwhile."""
    said = io.StringIO()
    store = dist.distributed_c10d._get_default_store()
    rank = dist.get_rank()
    with redirect_stderr(said), stall_detector.detect_stalls(store, rank, dist.get_world_size(), seconds / 8):
        for step in range(3):
            stall_detector.begin_step(step)
            if rank == 1 and step == 1:
                time.sleep(seconds)
            dist.all_reduce(torch.ones(()))
    return said.getvalue()


def diverge(seconds: float) -> str:
    """Rank 1 calls another collective than the others do."""
    said = io.StringIO()
    store = dist.distributed_c10d._get_default_store()
    rank = dist.get_rank()
    pairs = [dist.new_group([0, 1]), dist.new_group([1, 2])]
    done = threading.Event()
    with redirect_stderr(said), stall_detector.detect_stalls(store, rank, dist.get_world_size(), seconds / 4):
        stall_detector.begin_step(7)
        threading.Timer(seconds, done.set).start()
        order = {0: [0], 1: [1, 0], 2: []}[rank]
        if rank == 2:
            done.wait()
            order = [1]
        for number in order:
            dist.all_reduce(torch.ones(()), group=pairs[number])
    return said.getvalue()


def run_as_ranks(meet: tuple[str, Callable[[], Any]]) -> list[str]:
    """Every rank runs the function as a launcher's rank would; how each ended."""
    address, function = meet
    host, port = address.split(":")
    os.environ |= {"RANK": str(dist.get_rank()), "WORLD_SIZE": str(dist.get_world_size())}
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    try:
        with rendezvous.propagate_errors():
            function()
        ended = "well"
    except UserError as error:
        ended = f"error: {error.message}"
    except AlreadyReported:
        ended = "told"
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, ended)
    return everyone


def same_recipe() -> None:
    rendezvous.check_same("recipe", str)


def other_recipe() -> None:
    rendezvous.check_same(f"recipe {min(rank(), 1)}", lambda first: f"not {first}")


def main_rank_fails() -> None:
    """In a stage of its own, while the others wait for their turn."""
    if rank() == 0:
        raise UserError("no text in data/*.txt")
    rendezvous.wait_for("base")


def turns() -> None:
    if rank() == 0:
        time.sleep(0.5)
        rendezvous.publish("tokens", "done")
        rendezvous.publish("base", "together")
    else:
        assert [rendezvous.wait_for("tokens"), rendezvous.wait_for("base")] == ["done", "together"]


def one_rank_fails() -> None:
    """With an error of its own, while the others are in a collective."""
    if rank() == 1:
        raise UserError("data.bin is not here")
    raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


def one_rank_is_killed() -> None:
    if rank() != 1:
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


def a_bug() -> None:
    raise ZeroDivisionError("a bug keeps its trace")
