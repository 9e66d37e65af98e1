"""Mixture of experts in training: the auxiliary loss with masked positions, and the expert bias after a skipped batch."""

import gloo_ranks
import pytest
import torch
from equivalence import Case, batch, bounds, build_toy_model, differences, objective, run_rank, settings

from groundup.artifacts.machine import Machine
from groundup.model.moe import ExpertBias, pop_aux_loss
from groundup.train.engines.native_engine import NativeEngine


def build_engine(name: str, micro_batch_size: int = 16) -> NativeEngine:
    model = build_toy_model(name)
    return NativeEngine(model, objective(model.config), settings(), Machine(micro_batch_size=micro_batch_size))


def test_the_auxiliary_loss_is_a_mean_over_sequences_wherever_masked_positions_are():
    data = batch("moe", 0)
    data["labels"][4:8] = -100  # a micro-batch without targets
    engine, model = build_engine("moe", 4), build_toy_model("moe").train()
    expected = 0.0
    for rows in range(0, 16, 4):
        hidden = model.hidden_states(data["tokens"][rows : rows + 4])
        aux_loss = pop_aux_loss(model)
        labels = data["labels"][rows : rows + 4, 1:]
        losses = torch.nn.functional.cross_entropy(
            model.logits(hidden)[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        expected += losses / engine.objective.count(data) + aux_loss / 4
    assert engine.forward_backward(data) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["moe", "moe-bias"])
def test_the_micro_batch_size_changes_no_gradient(name):
    engines = [build_engine(name, size) for size in (16, 1)]
    losses = [engine.forward_backward(batch(name, 0)) for engine in engines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for (key, one), other in zip(engines[0].module.named_parameters(), engines[1].module.parameters(), strict=True):
        assert (one.grad - other.grad).norm() < 1e-5 * one.grad.norm() + 1e-7, key


@pytest.mark.parametrize(
    "layout", [{"shard": 2}, {"context": 2}, {"tensor": 2}, {"pipeline": 2}], ids=lambda layout: next(iter(layout))
)
def test_layouts_with_masked_positions_equal_one_process(layout):
    case = Case(layout, "moe-deep" if "pipeline" in layout else "moe", 2)  # one process: one micro-batch of 16
    found = differences(case, gloo_ranks.run_ranks(2, run_rank, case))
    assert all(found[key] < bound for key, bound in bounds(case).items()), found


@pytest.mark.parametrize("kind", ["skipped", "gradient norm"])
def test_a_skipped_batch_moves_no_expert_bias(kind):
    engine, straight = build_engine("moe-bias"), build_engine("moe-bias")
    engine.forward_backward(batch("moe-bias", 7))
    if kind == "skipped":
        engine.zero_grad()
    else:
        engine.parameters[0].grad.fill_(torch.inf)
        engine.optimizer_step(1.0)
    balancers = [module for module in engine.module.modules() if isinstance(module, ExpertBias)]
    assert balancers
    assert all(not balancer.load.any() for balancer in balancers), "a checkpoint holds no load"
    for one in (engine, straight):
        one.forward_backward(batch("moe-bias", 0))
        one.optimizer_step(1.0)
    for name, value in straight.module.state_dict().items():
        assert torch.equal(engine.module.state_dict()[name], value), name
