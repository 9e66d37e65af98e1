"""ALiBi: slopes of heads, and a bias of the distance."""

import pytest
import torch

from groundup.model.position_encoding import AlibiBias, alibi_slopes


def test_slopes_of_eight_heads_are_those_of_the_paper():
    """Press et al. 2022, section 3: 1/2, 1/4, ... 1/256."""
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))


@pytest.mark.parametrize("heads", [1, 3, 5, 6, 12, 20])
def test_slopes_of_other_numbers_come_from_the_powers_of_two_around_it(heads: int):
    slopes = alibi_slopes(heads)
    below = 2 ** (heads.bit_length() - 1)
    assert len(slopes) == len(set(slopes)) == heads
    assert slopes[:below] == alibi_slopes(below)
    assert slopes[below:] == alibi_slopes(2 * below)[0::2][: heads - below]


def test_bias_falls_with_the_distance():
    bias = AlibiBias(4)(torch.tensor([5, 2]), torch.arange(6))
    assert bias.shape == (4, 2, 6)
    distance = torch.tensor([[5, 4, 3, 2, 1, 0], [2, 1, 0, 1, 2, 3]])
    for head, slope in enumerate(alibi_slopes(4)):
        torch.testing.assert_close(bias[head], -slope * distance)
