"""Being one rank of many: meeting the others, telling them what they must know, and leaving them without a hang.

Ranks meet in two ways. The store of their launcher holds notes, from the first moment to the last: whose turn it is,
what each is doing (stall_detector.py), what went wrong. The process group, which carries tensors, is there for a training only.
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

from groundup.artifacts.errors import AlreadyReported, PeerLost, UserError
from groundup.parallel.stall_detector import ERROR_KEY, detect_stalls

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up."""

ERROR_WAIT_SECONDS = 5.0
"""How long a rank with an error waits for the first one to tell it, or for another's error to explain its own."""

ERROR_REPORTED_KEY = "told"
"""Name of the note that the first rank has told the error."""


def is_distributed() -> bool:
    """Whether a launcher (torchrun, or whatever sets its variables) has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def env_rank() -> int:
    return int(os.environ.get("RANK", "0"))


@cache
def get_store() -> dist.Store:
    """Where all ranks of a launcher read and write; open as long as the process lives."""
    store, _, _ = next(iter(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT)))
    return dist.PrefixStore("groundup", store)


def publish(key: str, value: str) -> None:
    """Write a note, which all ranks can `hear`. Once for each name."""
    get_store().set(key, value)


def wait_for(key: str) -> str:
    """The note of this name, as soon as it is there. Raises the run's error when there is one before."""
    while not _poll(key, 5.0):
        if (error := published_error()) is not None:
            raise error
    return get_store().get(key).decode()


def check_same(value: str, describe_difference: Callable[[str], str]) -> None:
    """Return when all ranks have been given the same. Raises UserError with `objection(the first one's)` when not."""
    if env_rank() == 0:
        publish("given", value)
        for rank in range(1, int(os.environ["WORLD_SIZE"])):
            wait_for(f"given to {rank}")
        return
    if (first := wait_for("given")) != value:
        raise UserError(
            f"another recipe than rank 0 has: {describe_difference(first)}",
            hint="give every rank the same recipe and files",
        )
    publish(f"given to {env_rank()}", "the same")


def published_error() -> UserError | None:
    """The error that a rank has met and that ends them all, if there is one."""
    if not get_store().check([ERROR_KEY]):
        return None
    return UserError(**json.loads(get_store().get(ERROR_KEY)))


@contextmanager
def propagate_errors() -> Iterator[None]:
    """Let the ranks of a launcher end together, and the first one speak for all.

    A UserError of any rank is raised by the first one, and by it alone: the others raise Told. Where a collective fails
    because a rank has left with an error, that error is what is told; where it was killed, all others raise Lost.
    """
    if not is_distributed():
        yield
        return
    get_store()  # all open it now, or none
    try:
        yield
    except UserError as error:
        _publish_error(error)
        if env_rank() == 0:
            get_store().set(ERROR_REPORTED_KEY, "")
            raise
        _exit_after_main()
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        try:
            explained = _poll(ERROR_KEY)
        except (dist.DistError, RuntimeError):  # the store is gone too
            explained = False
        if not explained:
            raise PeerLost(f"rank {env_rank()} has lost another: {str(error).splitlines()[0]}") from error
        if env_rank() == 0 and (told := published_error()) is not None:
            get_store().set(ERROR_REPORTED_KEY, "")
            raise told from None
        _exit_after_main()


def _publish_error(error: UserError) -> None:
    """The first one that is written stays."""
    mine = env_rank()
    message = error.message if mine == 0 else f"rank {mine}: {error.message}"
    get_store().compare_set(ERROR_KEY, "", json.dumps({"message": message, "hint": error.hint}))


def _exit_after_main() -> None:
    """A launcher that sees one process end ends the others: not before the first one has spoken."""
    if _poll(ERROR_REPORTED_KEY):
        time.sleep(0.3)  # from the note to the screen
    raise AlreadyReported


def _poll(key: str, seconds: float = ERROR_WAIT_SECONDS) -> bool:
    """Whether the note is there in time. Looks more and more seldom: a store's own waiting complains when it is long."""
    latest, pause = time.monotonic() + seconds, 0.02
    while not get_store().check([key]):
        if time.monotonic() > latest:
            return False
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
    return True


@contextmanager
def process_group(
    device: torch.device,
    timeout: timedelta = RENDEZVOUS_TIMEOUT,
    stall_seconds: float = 60.0,
    *,
    single_process: bool = False,
) -> Iterator[torch.device]:
    """Be a rank for as long as the block runs; gives this rank's device. Without others it does nothing.

    Args:
        alone: be a rank without others too, for engines that know nothing else.

    The process group is taken down whatever happens: a rank that leaves by an error ends the others' waiting, and a
    rank that forgets to leave may abort. After `stall_seconds` without a step, the first rank tells who waits for whom.
    """
    if dist.is_initialized() or not (is_distributed() or single_process):
        yield device
        return
    # Both, because weights may be kept in the CPU's memory, and ranks speak of other things than tensors.
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    if not is_distributed():
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
        store=dist.PrefixStore("group", get_store()),
        rank=env_rank(),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )
    try:
        with detect_stalls(get_store(), env_rank(), dist.get_world_size(), stall_seconds):
            yield device
    finally:
        dist.destroy_process_group()
