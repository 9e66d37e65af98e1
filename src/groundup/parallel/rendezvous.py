"""Rendezvous of ranks: a shared key-value store, the process group, and errors that end all ranks together.

The launcher's store is open from the first moment to the last; it holds the turn of each pipeline stage, the status of
each rank (stall_detector.py) and the error that ended the run. The process group, which carries tensors, exists for one
training only.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist

from groundup.artifacts.directory import partial_matches, partial_path
from groundup.artifacts.errors import AlreadyReported, PeerLost, UserError
from groundup.artifacts.rank_environment import attempt, local_rank, rank, world_size
from groundup.parallel.stall_detector import ERROR_KEY, detect_stalls

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""For the ranks to find one another, and of a collective in any process group: PyTorch's default is 30 minutes on CPUs."""

ERROR_WAIT_SECONDS = 5.0
"""For rank 0 to report an error, or for another rank's error to explain a failed collective."""

ERROR_REPORTED_KEY = "error-reported"
"""Set when rank 0 has reported the error."""

SHARED_DISK_TIMEOUT_SECONDS = 120
"""For a folder that one rank has made to appear on the others."""


@cache
def get_store() -> dist.Store:
    """The store of the launcher, shared by all ranks; open as long as the process lives."""
    store, _, _ = next(iter(dist.rendezvous("env://", timeout=COLLECTIVE_TIMEOUT)))
    return dist.PrefixStore(f"groundup/{attempt()}", store)


def publish(key: str, value: str) -> None:
    """Write a value that all ranks can `wait_for`. Once for each key."""
    get_store().set(key, value)


def wait_for(key: str) -> str:
    """The value of a key, as soon as it is published. Raises the run's error if that comes first."""
    while not _poll(key, 5.0):
        if (error := published_error()) is not None:
            raise error
    return get_store().get(key).decode()


def check_same(value: str, describe_difference: Callable[[str], str]) -> None:
    """Raises UserError with `describe_difference(rank 0's value)` unless every rank has the value of rank 0."""
    if rank() == 0:
        publish("reference", value)
        for other in range(1, world_size()):
            wait_for(f"compared by {other}")
        return
    if (reference := wait_for("reference")) != value:
        raise UserError(
            f"another recipe than rank 0 has: {describe_difference(reference)}",
            hint="give every rank the same recipe and files",
        )
    publish(f"compared by {rank()}", "")


def wait_for_partial_folder(final: Path, fingerprint: str) -> None:
    """Wait until this rank sees the work folder that rank 0 has opened: a shared disk may take a while."""
    deadline = time.monotonic() + SHARED_DISK_TIMEOUT_SECONDS
    while not partial_matches(final, fingerprint):
        if time.monotonic() > deadline:
            raise UserError(
                f"{partial_path(final)}: opened by rank 0, but missing or of another recipe on this machine",
                hint="all machines of a run need the same --runs folder, on a shared disk",
            )
        time.sleep(0.2)


def published_error() -> UserError | None:
    """The error that ends the run, if a rank has published one."""
    if not get_store().check([ERROR_KEY]):
        return None
    return UserError(**json.loads(get_store().get(ERROR_KEY)))


@contextmanager
def propagate_errors() -> Iterator[None]:
    """End all ranks of a launcher together, with one error message.

    A UserError of any rank is raised on rank 0; the other ranks raise AlreadyReported. A collective that fails because a
    rank has left with an error reports that error; if the rank was killed, all others raise PeerLost.
    """
    if world_size() == 1:
        yield
        return
    get_store()  # opened by all ranks now: it needs all of them
    try:
        yield
    except UserError as error:
        _publish_error(error)
        if rank() == 0:
            get_store().set(ERROR_REPORTED_KEY, "")
            raise
        _exit_after_main()
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        try:
            explained = _poll(ERROR_KEY)
        except (dist.DistError, RuntimeError):  # the store is lost too
            explained = False
        if not explained:
            raise PeerLost(f"rank {rank()} has lost another: {str(error).splitlines()[0]}") from error
        if rank() == 0 and (cause := published_error()) is not None:
            get_store().set(ERROR_REPORTED_KEY, "")
            raise cause from None
        _exit_after_main()


def _publish_error(error: UserError) -> None:
    """The first error to be published stays."""
    message = error.message if rank() == 0 else f"rank {rank()}: {error.message}"
    get_store().compare_set(ERROR_KEY, "", json.dumps({"message": message, "hint": error.hint}))


def _exit_after_main() -> None:
    """A launcher ends all processes when one ends, so rank 0 must have reported first."""
    with suppress(dist.DistError, RuntimeError):  # rank 0 has ended, and with it the store
        if _poll(ERROR_REPORTED_KEY):
            time.sleep(0.3)  # until the message is printed
    raise AlreadyReported


def _poll(key: str, seconds: float = ERROR_WAIT_SECONDS) -> bool:
    """Whether the key appears in time. Polled with growing pauses: `Store.wait` logs warnings on long waits."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while not get_store().check([key]):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
    return True


@contextmanager
def process_group(
    device: torch.device, stall_seconds: float = 60.0, *, single_process: bool = False
) -> Iterator[torch.device]:
    """The default process group, with a stall detector; yields this rank's device. Without a launcher it does nothing.

    Args:
        stall_seconds: without a new step, after which rank 0 reports which ranks are waited for.
        single_process: make a group of one rank without a launcher, for engines that need one.

    The group is destroyed in any case, which ends the waiting of other ranks.

        with process_group(torch.device("cuda")) as device:
            mesh = build_mesh(layout, device)
    """
    if dist.is_initialized() or (world_size() == 1 and not single_process):
        yield device
        return
    # gloo as well, for offloaded weights and the control messages of communicator.py.
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    if world_size() == 1:
        store, stall_detection = dist.HashStore(), nullcontext()
    else:
        store = dist.PrefixStore("group", get_store())
        stall_detection = detect_stalls(get_store(), rank(), world_size(), stall_seconds)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank())
            torch.cuda.set_device(device)
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=COLLECTIVE_TIMEOUT)
    try:
        with stall_detection:
            yield device
    finally:
        dist.destroy_process_group()
