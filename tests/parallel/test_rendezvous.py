"""Errors end all ranks with one message; stalled ranks and stragglers are reported."""

import socket
import sys

import gloo_ranks
import pytest
import rendezvous_cases
import torch
import torch.distributed as dist

from groundup.parallel.rendezvous import COLLECTIVE_TIMEOUT, process_group
from groundup.parallel.stall_detector import RankStatus, diagnose_stall, find_stragglers, inspect_frame

LOST = "PeerLost: rank {} has lost another: [gloo/transport/tcp/pair.cc] Connection closed by peer"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("function", "ends"),
    [
        (rendezvous_cases.same_recipe, ["success", "success", "success"]),
        (rendezvous_cases.turns, ["success", "success", "success"]),
        (rendezvous_cases.main_rank_fails, ["error: no text in data/*.txt", "already reported", "already reported"]),
        (
            rendezvous_cases.one_rank_fails,
            ["error: rank 1: data.bin is not here", "already reported", "already reported"],
        ),
        (rendezvous_cases.one_rank_is_killed, [LOST.format(0), "success", LOST.format(2)]),
        (rendezvous_cases.a_bug, ["ZeroDivisionError: division by zero"] * 3),
    ],
)
def test_errors_end_all_ranks_and_rank_0_reports(function, ends):
    assert gloo_ranks.run_ranks(3, rendezvous_cases.run_as_ranks, (free_address(), function)) == ends


def test_different_recipes_are_one_error():
    first, *others = gloo_ranks.run_ranks(
        3, rendezvous_cases.run_as_ranks, (free_address(), rendezvous_cases.other_recipe)
    )
    assert first in {f"error: rank {rank}: another recipe than rank 0 has: not recipe 0" for rank in (1, 2)}
    assert others == ["already reported", "already reported"]


def test_every_process_group_has_the_stated_timeout():
    seconds = COLLECTIVE_TIMEOUT.total_seconds()
    assert gloo_ranks.run_ranks(4, rendezvous_cases.group_timeouts, {"shard": 2, "context": 2, "expert": 2}) == {
        seconds
    }
    with process_group(torch.device("cpu"), single_process=True):
        assert dist.group.WORLD is not None
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options
        assert options._timeout == COLLECTIVE_TIMEOUT


def test_report_of_a_stalled_rank():
    report = gloo_ranks.run_ranks(3, rendezvous_cases.stall, 12.0)
    # The last report: statuses are some seconds old.
    cause, *lines = report[report.rindex("step 1 has taken ") :].splitlines()
    assert cause.endswith("seconds: waiting for rank 1")
    assert lines[0].startswith("  rank 1: at step 1, rendezvous_cases.py:")
    assert lines[1].startswith("  ranks 0, 2: in all_reduce among ranks 0-2, step 1, rendezvous_cases.py:")


def test_report_of_mismatched_collectives():
    report = gloo_ranks.run_ranks(3, rendezvous_cases.diverge, 8.0)
    assert "waiting for rank 2" in report
    assert "  rank 0: in all_reduce among ranks 0-1, step 7" in report
    assert "  rank 1: in all_reduce among ranks 1-2, step 7" in report


def status(step: int, seconds: float, collective: str | None = None, **more) -> RankStatus:
    return RankStatus(
        step, seconds, "train/training_loop.py:90 train", collective, process="node-3, process 17", **more
    )


def test_diagnosis_of_a_stall():
    assert diagnose_stall({0: status(3, 90), 1: status(3, 90)}, {}) is None, "no rank waits"
    stuck = {rank: status(3, 90, "all_reduce") for rank in range(8)}
    assert diagnose_stall(stuck | {5: status(2, 95)}, {}) == (
        "step 2 has taken 95 seconds: waiting for rank 5\n"
        "  rank 5: at step 2, train/training_loop.py:90 train\n"
        "  ranks 0-4, 6-7: in all_reduce among all, step 3, train/training_loop.py:90 train"
    )
    silent = diagnose_stall(stuck, {2: 40.0}) or ""
    assert "  rank 2: no status for 40 seconds (node-3, process 17)" in silent
    apart = diagnose_stall({0: status(3, 90, "all_reduce"), 1: status(3, 90, "broadcast")}, {}) or ""
    assert "all ranks wait, in different places" in apart


def test_finished_rank_is_not_waited_for():
    statuses = {0: status(3, 90, "barrier"), 1: RankStatus(finished=True)}
    for silent in ({}, {1: 40.0}):
        assert "all ranks wait in one place" in (diagnose_stall(statuses, silent) or "")


def test_straggler_waits_less_than_all_others():
    before = {rank: RankStatus() for rank in range(3)}
    slow = {rank: RankStatus(samples=400, waiting_samples=240, process="node-3") for rank in range(3)}
    assert find_stragglers(before, slow) == {}
    found = find_stragglers(before, slow | {1: RankStatus(samples=400, waiting_samples=8, process="node-1")})
    assert found == {1: "rank 1 is slow (node-1): it waits 2% of the time, every other rank at least 60%"}


def test_frame_outside_collectives():
    location, collective, group_ranks = inspect_frame(sys._getframe())
    assert location.startswith("test_rendezvous.py:")
    assert (collective, group_ranks) == (None, ())
