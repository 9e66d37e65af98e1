"""A layout changes where a run is computed and nothing else: losses, norms and every gradient are those of one process."""

import pytest
import world
from cases import QUICK, SLOW
from sameness import Case, alone, bounds, differences, together


def check(ranks: int, case: Case) -> None:
    found = differences(case, world.run(ranks, together, case))
    for key, bound in bounds(case).items():
        assert found[key] < bound, f"{key} differs by {found[key]:.1e}"


@pytest.mark.parametrize("name", QUICK)
def test_a_layout_trains_like_one_process(name):
    check(*QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_other_layout_does_too(name):
    check(*SLOW[name])


def test_the_comparison_can_fail():
    """Another seed's batch in one step is seen in all three numbers."""
    case = Case({})
    run = alone(case.model, case.settings)
    other = run | {
        "losses": [*run["losses"][:-1], run["losses"][-1] * 1.001],
        "norms": [*run["norms"][:-1], run["norms"][-1] * 1.001],
        "gradients": [{name: gradient * 1.001 for name, gradient in run["gradients"].items()}],
    }
    found = differences(case, other)
    assert all(found[key] > bound for key, bound in bounds(case).items())
