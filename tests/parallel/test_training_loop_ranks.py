"""Training loop on several ranks: after an interruption all ranks decide as if there had been none."""

import math

import gloo_ranks
import loop_cases
import pytest
from loop_cases import LoopCase

SPIKE = {22: 1000.0}
FALLING = {step: -float(step) for step in range(40)}
BEST_AT_12 = {6: 3.0, 12: 1.0, 18: 2.0, 24: 1.5, 30: 1.0, 36: 0.5}
SKIP, ROLLBACK = ({"on_spike": name, "evaluate_every": 6} for name in ("skip", "rollback"))
CASES = {
    "evaluation, stopped after it": ({"evaluate_every": 6}, (6, 12, 13), {}, False),
    "evaluation, checkpoint at every step": ({"evaluate_every": 6}, (6, 7, 12), {}, True),
    "skip a spike": (SKIP, (20, 22), SPIKE, True),
    "skip a spike, stopped after it": (SKIP, (21, 23), SPIKE, True),
    "roll back": (ROLLBACK, (20,), SPIKE, False),
    "roll back, stopped after it": (ROLLBACK, (20, 24), SPIKE, False),
    "too many skips": (SKIP, (20, 21), dict.fromkeys(range(18, 30), math.nan), True),
    "gradient norm": (SKIP, (20,), {21: math.inf}, True),
}


QUICK = ("evaluation, stopped after it", "skip a spike", "roll back, stopped after it")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_resumed_ranks_decide_alike(name, tmp_path):
    train, stops, factors, every_step = CASES[name]
    case = LoopCase(tmp_path, {"shard": 2}, {"steps": 26} | train, stops, factors, FALLING, every_step)
    straight, stopped = gloo_ranks.run_ranks(2, loop_cases.straight_and_stopped, case)
    assert stopped == straight
    assert (straight == "step 22, batch 22: loss nan") == (len(factors) > 1)


@pytest.mark.parametrize(
    ("stops", "every_step"),
    [
        pytest.param(stops, every_step, marks=[] if stops == (12, 19) and not every_step else pytest.mark.slow)
        for stops in ((12, 19), (13, 24), (26,))
        for every_step in (True, False)
    ],
)
def test_resumed_ranks_stop_early_alike(stops, every_step, tmp_path):
    train = {"steps": 36, "evaluate_every": 6, "early_stopping_patience": 3, "keep_best_weights": True}
    case = LoopCase(tmp_path, {"shard": 2}, train, stops, {}, BEST_AT_12, every_step)
    straight, stopped = gloo_ranks.run_ranks(2, loop_cases.straight_and_stopped, case)
    assert stopped == straight
    assert [record["step"] for record in straight[1]] == [6, 12, 18, 24, 30]


@pytest.mark.slow
@pytest.mark.parametrize("train", [SKIP, ROLLBACK], ids=str)
def test_four_resumed_ranks_decide_alike(train, tmp_path):
    layout = {"replicate": 2, "shard": 2}
    case = LoopCase(tmp_path, layout, {"steps": 26} | train, (18, 21), SPIKE, FALLING, False)
    straight, stopped = gloo_ranks.run_ranks(4, loop_cases.straight_and_stopped, case)
    assert stopped == straight


def test_the_main_rank_lists_the_checkpoints(tmp_path):
    train = {"steps": 12, "evaluate_every": 6}
    case = LoopCase(tmp_path, {"shard": 2}, train, (8,), {}, FALLING, stale=True)
    straight, stopped = gloo_ranks.run_ranks(2, loop_cases.straight_and_stopped, case)
    assert stopped == straight


def test_all_ranks_fall_back_when_the_file_of_one_is_damaged(tmp_path):
    case = LoopCase(tmp_path, {"shard": 2}, {"steps": 12, "evaluate_every": 4}, (8,), {}, FALLING, damaged=True)
    straight, stopped = gloo_ranks.run_ranks(2, loop_cases.straight_and_stopped, case)
    assert stopped == straight
