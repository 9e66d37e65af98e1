"""Learning rate schedules and optimizer groups."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from groundup.recipe.train_config import TrainConfig
from groundup.train.lr_schedule import SCHEDULES, lr_multiplier
from groundup.train.optimizer import build_optimizers, set_learning_rate, split_parameters


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_peak_and_end(name):
    multipliers = [lr_multiplier(step, 100, 10, name, min_ratio=0.1) for step in range(100)]
    assert multipliers[0] == pytest.approx(1 / 11)
    assert multipliers[10] == pytest.approx(1.0)
    assert multipliers[-1] == pytest.approx(1.0 if name == "constant" else 0.1)
    assert all(a < b for a, b in pairwise(multipliers[:11]))
    assert all(a >= b for a, b in pairwise(multipliers[10:]))


def test_stable_phase_is_flat_until_the_decay():
    options = {"schedule": "warmup-stable-decay", "decay_fraction": 0.25, "min_ratio": 0.0}
    assert {lr_multiplier(step, 101, **options) for step in range(75)} == {1.0}
    assert lr_multiplier(88, 101, **options) == pytest.approx(0.48)


def test_recipe_schedules_equal_implemented_schedules():
    allowed = TrainConfig.model_fields["lr_schedule"].annotation
    assert set(SCHEDULES) == set(allowed.__args__)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)


def test_weight_decay_on_matrices_only_and_each_weight_in_one_group():
    model = Tiny()
    hidden, embeddings, vectors = split_parameters(model)
    assert [p.shape for p in hidden] == [(4, 4)]
    assert len(embeddings) == 2
    assert len(vectors) == 3
    for name in ("adamw", "muon"):
        optimizers = build_optimizers(model, TrainConfig(optimizer=name, weight_decay=0.3), 1e-3)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        moved = [id(p) for group in groups for p in group["params"]]
        assert sorted(moved) == sorted(id(p) for p in model.parameters())
        for group in groups:
            if any(p.ndim < 2 for p in group["params"]):
                assert group["weight_decay"] == 0.0
        set_learning_rate(optimizers, 0.5)
        assert all(group["lr"] == pytest.approx(0.5 * group["peak_lr"]) for group in groups)


def test_adamw_equals_its_formula():
    torch.manual_seed(0)
    model = Tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (optimizer,) = build_optimizers(model, TrainConfig(weight_decay=0.1, beta1=0.9, beta2=0.95), 0.01)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        decay = 0.1 if p.ndim == 2 else 0.0
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * 1.0 / (1.0 + 1e-8)
        torch.testing.assert_close(p.detach(), expected)
