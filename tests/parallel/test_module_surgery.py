"""Mixins in front of modules: the module's own methods stay reachable, and the change can be undone."""

import engine_cases
import gloo_ranks
import pytest
import torch
from equivalence import batch, build_toy_model
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.parallel import apply_activation_checkpointing, parallelize
from groundup.parallel.mesh import Mesh
from groundup.parallel.module_surgery import restore, specialize
from groundup.recipe.layout_config import LayoutConfig


class _Scaled(nn.Module):
    factor: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.factor


def test_specialized_modules_share_a_class_and_keep_weights():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    x, expected = torch.ones(1, 2), first(torch.ones(1, 2))
    names = list(first.state_dict())
    for layer, factor in ((first, 2.0), (second, 3.0)):
        specialize(layer, _Scaled, factor=factor)
    assert type(first) is type(second)
    assert isinstance(first, nn.Linear)
    assert list(first.state_dict()) == names
    torch.testing.assert_close(first(x), 2 * expected)


def test_restore_undoes_the_last_mixin_only():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = layer(x)
    specialize(layer, _Scaled, factor=2.0)
    inner = type(layer)
    specialize(layer, _ScaledAgain, other=3.0)
    torch.testing.assert_close(layer(x), 6 * expected)
    restore(layer)
    assert type(layer) is inner
    torch.testing.assert_close(layer(x), 2 * expected)
    restore(layer)
    assert type(layer) is nn.Linear
    assert not {"factor", "other"} & vars(layer).keys()


class _ScaledAgain(nn.Module):
    other: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.other


@pytest.mark.parametrize("precision", ["float16", "bf16", "float8"])
def test_unknown_precision_is_rejected(precision):
    mesh = Mesh(LayoutConfig(shard=1), torch.device("cpu"), None, None, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected float32, bfloat16, bfloat16-pure"):
        parallelize(nn.Linear(2, 2), mesh, precision=precision)


def test_unknown_checkpointing_mode_is_rejected():
    with pytest.raises(ValueError, match="expected none, selective, full"):
        apply_activation_checkpointing(nn.Linear(2, 2), "all")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"shard": 2}], ids=str)
def test_parallelize_without_a_recipe(layout):
    model, tokens = build_toy_model("llama"), batch("llama", 0)["tokens"]
    model(tokens, tokens).loss.backward()
    expected = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    norm = gloo_ranks.run_ranks(2, engine_cases.train_without_recipe, layout)
    assert norm == pytest.approx(expected, rel=1e-5)
