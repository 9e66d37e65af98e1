"""Functions that ranks run in test_rendezvous.py."""

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
from groundup.parallel import Communicator, build_mesh, rendezvous, stall_detector
from groundup.recipe.layout_config import LayoutConfig


def stall(seconds: float) -> str:
    """Rank 1 sleeps in its second step while the others wait in an all-reduce. Returns rank 0's reports."""
    stderr = io.StringIO()
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    with redirect_stderr(stderr), stall_detector.detect_stalls(store, rank, dist.get_world_size(), seconds / 8):
        for step in range(3):
            stall_detector.begin_step(step)
            if rank == 1 and step == 1:
                time.sleep(seconds)
            dist.all_reduce(torch.ones(()))
    return stderr.getvalue()


def diverge(seconds: float) -> str:
    """Rank 1 calls its collectives in another order than the others."""
    stderr = io.StringIO()
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    pairs = [dist.new_group([0, 1]), dist.new_group([1, 2])]
    done = threading.Event()
    with redirect_stderr(stderr), stall_detector.detect_stalls(store, rank, dist.get_world_size(), seconds / 4):
        stall_detector.begin_step(7)
        threading.Timer(seconds, done.set).start()
        if rank == 2:
            done.wait()
        for pair in {0: [0], 1: [1, 0], 2: [1]}[rank]:
            dist.all_reduce(torch.ones(()), group=pairs[pair])
    return stderr.getvalue()


def group_timeouts(layout: dict[str, int]) -> set[float]:
    """Seconds that the groups of a mesh and a communicator wait; the default group is the test's own."""
    build_mesh(LayoutConfig(**layout), torch.device("cpu"))
    Communicator()
    groups = [group for group in dist.distributed_c10d._world.pg_map if group is not dist.group.WORLD]
    assert len(groups) > 4
    return {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}


def run_as_ranks(arguments: tuple[str, Callable[[], Any]]) -> list[str]:
    """Run (address, function) on every rank as under a launcher. Returns how each rank ended."""
    address, function = arguments
    host, port = address.split(":")
    os.environ |= {"RANK": str(dist.get_rank()), "WORLD_SIZE": str(dist.get_world_size())}
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    try:
        with rendezvous.propagate_errors():
            function()
        ended = "success"
    except UserError as error:
        ended = f"error: {error.message}"
    except AlreadyReported:
        ended = "already reported"
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    ends: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ends, ended)
    return ends


def same_recipe() -> None:
    rendezvous.check_same("recipe", str)


def other_recipe() -> None:
    rendezvous.check_same(f"recipe {min(rank(), 1)}", lambda reference: f"not {reference}")


def main_rank_fails() -> None:
    """In its own stage, while the others wait for their turn."""
    if rank() == 0:
        raise UserError("no text in data/*.txt")
    rendezvous.wait_for("base")


def turns() -> None:
    if rank() == 0:
        time.sleep(0.5)
        rendezvous.publish("tokens", "done")
        rendezvous.publish("base", "all-ranks")
    else:
        assert [rendezvous.wait_for("tokens"), rendezvous.wait_for("base")] == ["done", "all-ranks"]


def one_rank_fails() -> None:
    """While the others are in a collective."""
    if rank() == 1:
        raise UserError("data.bin is not here")
    raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


def one_rank_is_killed() -> None:
    if rank() != 1:
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


def a_bug() -> None:
    raise ZeroDivisionError("division by zero")
