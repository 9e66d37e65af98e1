"""Being one rank of many: meeting the others, telling them what they must know, and leaving them without a hang.

Ranks meet in two ways. The store of their launcher holds notes, from the first moment to the last: whose turn it is,
what each is doing (watch.py), what went wrong. The process group, which carries tensors, is there for a training only.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from groundup.artifacts.errors import Lost, Told, UserError
from groundup.parallel.watch import ERROR, watching

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up."""

SECONDS_TO_BE_TOLD = 5.0
"""How long a rank with an error waits for the first one to tell it, or for another's error to explain its own."""

ALL_TOLD = "told"
"""Name of the note that the first rank has told the error."""


def started_with_others() -> bool:
    """Whether a launcher (torchrun, or whatever sets its variables) has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_rank() -> int:
    return int(os.environ.get("RANK", "0"))


@cache
def notes() -> dist.Store:
    """Where all ranks of a launcher read and write; open as long as the process lives."""
    store, _, _ = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    return dist.PrefixStore("groundup", store)


def tell(name: str, value: str) -> None:
    """Write a note, which all ranks can `hear`. Once for each name."""
    notes().set(name, value)


def hear(name: str) -> str:
    """The note of this name, as soon as it is there. Raises the run's error when there is one before."""
    while not _wait_for(name, 5.0):
        if (error := failure()) is not None:
            raise error
    return notes().get(name).decode()


def agree(what: str, objection: Callable[[str], str]) -> None:
    """Return when all ranks have been given the same. Raises UserError with `objection(the first one's)` when not."""
    if own_rank() == 0:
        tell("given", what)
        for rank in range(1, int(os.environ["WORLD_SIZE"])):
            hear(f"given to {rank}")
        return
    if (first := hear("given")) != what:
        raise UserError(
            f"another recipe than rank 0 has: {objection(first)}",
            hint="give every rank the same recipe and files",
        )
    tell(f"given to {own_rank()}", "the same")


def failure() -> UserError | None:
    """The error that a rank has met and that ends them all, if there is one."""
    if not notes().check([ERROR]):
        return None
    return UserError(**json.loads(notes().get(ERROR)))


@contextmanager
def as_one() -> Iterator[None]:
    """Let the ranks of a launcher end together, and the first one speak for all.

    A UserError of any rank is raised by the first one, and by it alone: the others raise Told. Where a collective fails
    because a rank has left with an error, that error is what is told; where it was killed, all others raise Lost.
    """
    if not started_with_others():
        yield
        return
    notes()  # all open it now, or none
    try:
        yield
    except UserError as error:
        _leave_note(error)
        if own_rank() == 0:
            notes().set(ALL_TOLD, "")
            raise
        _end_after_the_first()
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        try:
            explained = _wait_for(ERROR)
        except (dist.DistError, RuntimeError):  # the store is gone too
            explained = False
        if not explained:
            raise Lost(f"rank {own_rank()} has lost another: {str(error).splitlines()[0]}") from error
        if own_rank() == 0 and (told := failure()) is not None:
            notes().set(ALL_TOLD, "")
            raise told from None
        _end_after_the_first()


def _leave_note(error: UserError) -> None:
    """The first one that is written stays."""
    mine = own_rank()
    message = error.message if mine == 0 else f"rank {mine}: {error.message}"
    notes().compare_set(ERROR, "", json.dumps({"message": message, "hint": error.hint}))


def _end_after_the_first() -> None:
    """A launcher that sees one process end ends the others: not before the first one has spoken."""
    if _wait_for(ALL_TOLD):
        time.sleep(0.3)  # from the note to the screen
    raise Told


def _wait_for(name: str, seconds: float = SECONDS_TO_BE_TOLD) -> bool:
    """Whether the note is there in time. Looks more and more seldom: a store's own waiting complains when it is long."""
    latest, pause = time.monotonic() + seconds, 0.02
    while not notes().check([name]):
        if time.monotonic() > latest:
            return False
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
    return True


@contextmanager
def joined(
    device: torch.device,
    patience: timedelta = PATIENCE,
    stall_seconds: float = 60.0,
    *,
    alone: bool = False,
) -> Iterator[torch.device]:
    """Be a rank for as long as the block runs; gives this rank's device. Without others it does nothing.

    Args:
        alone: be a rank without others too, for engines that know nothing else.

    The process group is taken down whatever happens: a rank that leaves by an error ends the others' waiting, and a
    rank that forgets to leave may abort. After `stall_seconds` without a step, the first rank tells who waits for whom.
    """
    if dist.is_initialized() or not (started_with_others() or alone):
        yield device
        return
    # Both, because weights may be kept in the CPU's memory, and ranks speak of other things than tensors.
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    if not started_with_others():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield device
        finally:
            dist.destroy_process_group()
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", notes()),
        rank=own_rank(),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=patience,
    )
    try:
        with watching(notes(), own_rank(), dist.get_world_size(), stall_seconds):
            yield device
    finally:
        dist.destroy_process_group()
