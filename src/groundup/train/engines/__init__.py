"""Where the steps of a run are computed.

`engine` says what the loop expects; `native` is one device; `parallel` many, with `ranks` (what they say to each other);
`state` is what both continue from; `deepspeed` and `megatron` let others compute. The last two are imported
where a recipe asks for them.
"""

import torch.distributed as dist
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.plan import parallel_layout
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.engine import CorruptCheckpoint, Engine
from groundup.train.engines.native_engine import NativeEngine
from groundup.train.engines.parallel_engine import ParallelEngine
from groundup.train.objectives import Objective

__all__ = ["CorruptCheckpoint", "Engine", "NativeEngine", "ParallelEngine", "build_engine"]


def build_engine(model: nn.Module, objective: Objective, settings: TrainConfig, machine: Machine) -> Engine:
    """The engine that trains `model`, which is whole and on its device; as one rank, where there are several.

    Raises UserError when machine.layout is not for as many devices as there are, or cannot compute the model.
    """
    wanted = LayoutConfig(**machine.layout)
    if settings.engine == "deepspeed":
        from groundup.train.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, objective, settings, machine, wanted)
    if settings.engine == "megatron":
        from groundup.train.engines.megatron_engine import MegatronEngine

        return MegatronEngine(model, objective, settings, machine, wanted)
    if dist.is_initialized() and dist.get_world_size() > 1:
        return ParallelEngine(model, objective, settings, machine, wanted)
    parallel_layout.complete_layout(wanted, 1)
    return NativeEngine(model, objective, settings, machine)
