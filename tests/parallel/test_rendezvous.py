"""Ranks end together, with one error, and while they wait they can be asked for whom."""

import socket
import sys

import gloo_ranks
import pytest
import rendezvous_cases

from groundup.parallel.stall_detector import RankStatus, diagnose_stall, find_stragglers, inspect_frame

LOST = "PeerLost: rank {} has lost another: [gloo/transport/tcp/pair.cc] Connection closed by peer"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("function", "ends"),
    [
        (rendezvous_cases.same_recipe, ["well", "well", "well"]),
        (rendezvous_cases.turns, ["well", "well", "well"]),
        (rendezvous_cases.main_rank_fails, ["error: no text in data/*.txt", "told", "told"]),
        (rendezvous_cases.one_rank_fails, ["error: rank 1: data.bin is not here", "told", "told"]),
        (rendezvous_cases.one_rank_is_killed, [LOST.format(0), "well", LOST.format(2)]),
        (rendezvous_cases.a_bug, ["ZeroDivisionError: a bug keeps its trace"] * 3),
    ],
)
def test_ranks_end_together_and_the_first_one_speaks(function, ends):
    assert gloo_ranks.run_ranks(3, rendezvous_cases.run_as_ranks, (free_address(), function)) == ends


def test_ranks_with_different_recipes_end_with_one_error():
    first, *others = gloo_ranks.run_ranks(
        3, rendezvous_cases.run_as_ranks, (free_address(), rendezvous_cases.other_recipe)
    )
    assert first in {f"error: rank {rank}: another recipe than rank 0 has: not recipe 0" for rank in (1, 2)}
    assert others == ["told", "told"]


def test_a_stalled_rank_is_named_with_those_that_wait_for_it():
    said = gloo_ranks.run_ranks(3, rendezvous_cases.stall, 12.0)
    # The last report: what ranks tell is some seconds old, and the first ones are made of what they did before.
    cause, *where = said[said.rindex("step 1 has taken ") :].splitlines()
    assert cause.endswith("seconds: waiting for rank 1")
    assert where[0].startswith("  rank 1: at step 1, rendezvous_cases.py:")
    assert where[1].startswith("  ranks 0, 2: in all_reduce among ranks 0-2, step 1, rendezvous_cases.py:")


def test_ranks_that_wait_for_each_other_are_told_apart():
    said = gloo_ranks.run_ranks(3, rendezvous_cases.diverge, 8.0)
    assert "waiting for rank 2" in said
    assert "  rank 0: in all_reduce among ranks 0-1, step 7" in said
    assert "  rank 1: in all_reduce among ranks 1-2, step 7" in said


def doing(step: int, seconds: float, collective: str | None = None, **more) -> RankStatus:
    return RankStatus(
        step, seconds, "train/training_loop.py:90 train", collective, process="node-3, process 17", **more
    )


def test_what_is_told_of_a_hang():
    assert diagnose_stall({0: doing(3, 90), 1: doing(3, 90)}, {}) is None, "all work: nobody waits"
    stuck = {rank: doing(3, 90, "all_reduce") for rank in range(8)}
    assert diagnose_stall(stuck | {5: doing(2, 95)}, {}) == (
        "step 2 has taken 95 seconds: waiting for rank 5\n"
        "  rank 5: at step 2, train/training_loop.py:90 train\n"
        "  ranks 0-4, 6-7: in all_reduce among all, step 3, train/training_loop.py:90 train"
    )
    silent = diagnose_stall(stuck, {2: 40.0}) or ""
    assert "  rank 2: nothing heard for 40 seconds (node-3, process 17)" in silent
    apart = diagnose_stall({0: doing(3, 90, "all_reduce"), 1: doing(3, 90, "broadcast")}, {}) or ""
    assert "all ranks wait, in different places" in apart
    assert "rank 1: at" not in (
        diagnose_stall({0: doing(3, 90, "barrier"), 1: RankStatus(finished=True)}, {}) or ""
    )


def test_a_straggler_is_who_does_not_wait():
    before = {rank: RankStatus() for rank in range(3)}
    slow = {rank: RankStatus(samples=400, waiting_samples=240, process="node-3") for rank in range(3)}
    assert find_stragglers(before, slow) == {}
    found = find_stragglers(before, slow | {1: RankStatus(samples=400, waiting_samples=8, process="node-1")})
    assert found == {1: "rank 1 is slow (node-1): it waits 2% of the time, every other rank at least 60%"}


def test_a_frame_outside_of_collectives_is_work():
    where, collective, among = inspect_frame(sys._getframe())
    assert where.startswith("test_rendezvous.py:")
    assert (collective, among) == (None, ())
