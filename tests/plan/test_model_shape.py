"""Shapes from parameter counts: monotonic, near the target, in sizes that hardware multiplies fast."""

import itertools

import pytest

from groundup.plan.shape.model_shape import candidate_configs, mixture_for_parameters, shape_for_parameters
from groundup.plan.shape.parameter_count import count_parameters


def test_shapes_rise_in_every_size():
    configs = list(candidate_configs(32_000, {}))
    for small, large in itertools.pairwise(configs):
        assert large.hidden_size >= small.hidden_size
        assert large.num_layers >= small.num_layers
        assert large.num_heads * large.head_dim >= small.num_heads * small.head_dim
        assert count_parameters(small).active < count_parameters(large).active < 1.65 * count_parameters(small).active
    for config in configs:
        if config.hidden_size >= 2048:
            assert config.num_heads % 2 == 0
            assert config.intermediate_size % 256 == 0
        if config.hidden_size >= 4096:
            assert config.num_heads % 8 == config.num_kv_heads % 8 == 0


@pytest.mark.parametrize("parameters", [30e6, 124e6, 350e6, 1.3e9, 3e9, 7e9, 13e9, 34e9, 70e9, 180e9])
def test_shape_is_near_the_parameters(parameters):
    config = shape_for_parameters(parameters, 32_000, {})
    assert count_parameters(config).active == pytest.approx(parameters, rel=0.15)
    larger = shape_for_parameters(1.7 * parameters, 32_000, {})
    assert count_parameters(larger).active > count_parameters(config).active


def test_mixture_has_active_and_total_parameters():
    config = mixture_for_parameters(1e9, 7e9, 50_304, {"qk_norm": True})
    counts = count_parameters(config)
    assert config.moe is not None
    assert config.moe.num_experts % 8 == 0
    assert counts.active == pytest.approx(1e9, rel=0.15)
    assert counts.total == pytest.approx(7e9, rel=0.15)
