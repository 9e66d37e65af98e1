"""Where the steps of a run are computed. `engine` says what the loop expects, `native` is one device."""

from torch import nn

from groundup.artifacts.machine import Machine
from groundup.recipe.train import TrainSection
from groundup.train.engines.engine import Damaged, Engine
from groundup.train.engines.native import NativeEngine
from groundup.train.objectives import Objective

__all__ = ["Damaged", "Engine", "NativeEngine", "build_engine"]


def build_engine(model: nn.Module, objective: Objective, settings: TrainSection, machine: Machine) -> Engine:
    """The engine that trains `model`, which is whole and on its device."""
    return NativeEngine(model, objective, settings, machine)
