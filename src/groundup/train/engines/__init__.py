"""Where the steps of a run are computed.

`engine` says what the loop expects; `native` is one device; `parallel` many, with `ranks` (what they say to each other);
`state` is what both continue from; `deepspeed` and `megatron` let others compute. The last two are imported
where a recipe asks for them.
"""

import torch.distributed as dist
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.plan import layout
from groundup.recipe.layout import Layout
from groundup.recipe.train import TrainSection
from groundup.train.engines.engine import Damaged, Engine
from groundup.train.engines.native import NativeEngine
from groundup.train.engines.parallel import ParallelEngine
from groundup.train.objectives import Objective

__all__ = ["Damaged", "Engine", "NativeEngine", "ParallelEngine", "build_engine"]


def build_engine(model: nn.Module, objective: Objective, settings: TrainSection, machine: Machine) -> Engine:
    """The engine that trains `model`, which is whole and on its device; as one rank, where there are several.

    Raises UserError when machine.layout is not for as many devices as there are, or cannot compute the model.
    """
    wanted = Layout(**machine.layout)
    if settings.engine == "deepspeed":
        from groundup.train.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(model, objective, settings, machine, wanted)
    if settings.engine == "megatron":
        from groundup.train.engines.megatron import MegatronEngine

        return MegatronEngine(model, objective, settings, machine, wanted)
    if dist.is_initialized() and dist.get_world_size() > 1:
        return ParallelEngine(model, objective, settings, machine, wanted)
    layout.complete(wanted, 1)
    return NativeEngine(model, objective, settings, machine)
