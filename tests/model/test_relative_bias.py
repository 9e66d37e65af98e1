"""T5's relative bias: buckets of distances."""

import torch

from groundup.model.position_encoding import RelativeBias, relative_position_bucket


def test_small_distances_have_a_bucket_each():
    distance = -torch.arange(0, 200)
    buckets = relative_position_bucket(distance, 32, 128, causal=True)
    assert buckets[:16].tolist() == list(range(16))
    assert (buckets.diff() >= 0).all()
    assert buckets.max() == 31
    assert (buckets[128:] == 31).all()
    assert (relative_position_bucket(-distance, 32, 128, causal=True) == 0).all()


def test_bidirectional_buckets_differ_by_sign():
    distance = torch.arange(-150, 151)
    buckets = relative_position_bucket(distance, 32, 128, causal=False)
    assert set(buckets[:151].tolist()) == set(range(16))
    assert set(buckets[151:].tolist()) == set(range(17, 32))


def test_bias_depends_on_the_distance_only(config):
    bias = RelativeBias(config(position_embedding="relative"), causal=True)
    full = bias(torch.arange(9), torch.arange(9))
    assert full.shape == (3, 9, 9)
    torch.testing.assert_close(full[..., 1:, 1:], full[..., :-1, :-1])
    torch.testing.assert_close(bias(torch.arange(6, 9), torch.arange(9)), full[..., 6:, :])
