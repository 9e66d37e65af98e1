"""Names and shapes of weights against the built model on the meta device, over random configurations."""

import pytest
import torch
from random_configs import draw_config

from groundup.model import build_model
from groundup.plan.shape.parameter_count import count_parameters
from groundup.plan.shape.weight_shapes import weight_shapes


def check_shapes(seed: int) -> None:
    config = draw_config(seed)
    with torch.device("meta"):
        built = {name: tuple(weight.shape) for name, weight in build_model(config).named_parameters()}
    assert weight_shapes(config).named() == built, config
    assert count_parameters(config).total == sum(map(torch.Size.numel, map(torch.Size, built.values())))


@pytest.mark.parametrize("seed", range(32))
def test_weights_of_random_models(seed):
    check_shapes(seed)


@pytest.mark.slow
def test_weights_of_a_thousand_random_models():
    for seed in range(1000):
        check_shapes(seed)
