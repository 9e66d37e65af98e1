"""Communication volume against the parameters of real models."""

from typing import get_args

import pytest

from groundup.plan.layout.communication import StepSpec, communication_bytes, rank_parameters
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig

FEED_FORWARDS = get_args(ModelConfig.model_fields["feed_forward"].annotation)


def config(feed_forward: str) -> ModelConfig:
    return ModelConfig(vocab_size=512, hidden_size=64, num_layers=4, num_heads=4, feed_forward=feed_forward)


@pytest.mark.parametrize("feed_forward", FEED_FORWARDS)
def test_rank_parameters_equal_the_count(feed_forward):
    counted, rank = (count_parameters(config(feed_forward)), rank_parameters(config(feed_forward), LayoutConfig()))
    blocks = rank.num_blocks * (rank.matrices + rank.vectors)
    assert blocks + rank.embedding + rank.head + 64 == counted.total  # 64: final norm


@pytest.mark.parametrize("feed_forward", FEED_FORWARDS)
def test_fsdp_bytes_of_all_weights(feed_forward):
    layout = LayoutConfig(shard=2, reshard_after_forward=False)
    sent = communication_bytes(config(feed_forward), layout, StepSpec(2, 64, compute_bytes=4))["data"]
    gathers_and_reduce = 2 * 4 * count_parameters(config(feed_forward)).total
    assert sent == pytest.approx(gathers_and_reduce / 2)
