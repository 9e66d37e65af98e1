"""Checkpoint state of the single-device engine: optimizer values of every type, and the micro-batch size."""

import torch
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.recipe.train_config import TrainConfig
from groundup.train import NativeEngine, Objective
from groundup.train.engines.engine_state import EngineState

MEAN_SQUARE = Objective(lambda model, batch: model(batch["x"]).square().mean(), lambda batch: len(batch["x"]))
SETTINGS = TrainConfig(steps=4, learning_rate=0.01, warmup_steps=1, evaluate_every=4, precision="float32")


class CountingSGD(torch.optim.Optimizer):
    """SGD whose state has an int, a float and a None beside a tensor."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state.update(step=0, decay=1.0, buffer=torch.zeros_like(weight), unused=None)
                state["step"] += 1
                state["decay"] *= 0.9
                state["buffer"] += weight.grad
                weight -= group["lr"] * state["buffer"]


def test_optimizer_state_of_plain_numbers_is_saved_and_restored(tmp_path):
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    optimizers = [CountingSGD(model.parameters()) for model in models]
    communicator = NativeEngine(nn.Linear(3, 2), MEAN_SQUARE, SETTINGS, Machine(device="cpu")).communicator
    states = [EngineState([m], [o], None, communicator) for m, o in zip(models, optimizers, strict=True)]
    for _ in range(3):
        models[0](torch.ones(3)).sum().backward()
        optimizers[0].step()
    states[0].save(tmp_path)()
    states[1].load(tmp_path)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        saved, loaded = optimizers[0].state[one], optimizers[1].state[other]
        assert torch.equal(one, other)
        assert torch.equal(saved["buffer"], loaded["buffer"])
        assert {key: loaded[key] for key in ("step", "decay", "unused")} == {
            "step": 3,
            "decay": 0.9 * 0.9 * 0.9,
            "unused": None,
        }
        assert type(loaded["step"]) is int


def test_a_resumed_engine_keeps_the_micro_batch_size(tmp_path):
    engines = [NativeEngine(nn.Linear(3, 2), MEAN_SQUARE, SETTINGS, Machine(device="cpu")) for _ in range(2)]
    engines[0].micro_batch_size = 3
    engines[0].forward_backward({"x": torch.ones(6, 3)})
    engines[0].optimizer_step(1.0)
    engines[0].save(tmp_path)()
    engines[1].load(tmp_path)
    assert engines[1].micro_batch_size == 3
