"""Losses, gradient norms and all gradients of every layout equal those of one process."""

import gloo_ranks
import pytest
from equivalence import Case, bounds, differences, run_rank, run_single_process
from layout_cases import QUICK, SLOW


def check(ranks: int, case: Case) -> None:
    found = differences(case, gloo_ranks.run_ranks(ranks, run_rank, case))
    for key, bound in bounds(case).items():
        assert found[key] < bound, f"{key} differs by {found[key]:.1e}"


@pytest.mark.parametrize("name", QUICK)
def test_layout_equals_single_process(name):
    check(*QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_more_layouts_equal_single_process(name):
    check(*SLOW[name])


def test_comparison_detects_a_difference():
    """A relative difference of 0.001 exceeds all three bounds."""
    case = Case({})
    run = run_single_process(case.model, case.settings)
    other = run | {
        "losses": [*run["losses"][:-1], run["losses"][-1] * 1.001],
        "norms": [*run["norms"][:-1], run["norms"][-1] * 1.001],
        "gradients": [{name: gradient * 1.001 for name, gradient in run["gradients"].items()}],
    }
    found = differences(case, other)
    assert all(found[key] > bound for key, bound in bounds(case).items())
