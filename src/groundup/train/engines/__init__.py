"""Training engines: where and how a step is computed.

engine.py              the interface that the loop uses
base_engine.py         shared setup and gradient accumulation
native_engine.py       a single device; read this one first
parallel_engine.py     PyTorch FSDP2, tensor, context, expert and pipeline parallelism
engine_state.py        checkpoint state of the two PyTorch engines
full_state.py          checkpoint state gathered as full tensors, for the engines below
deepspeed_engine.py    DeepSpeed ZeRO; imported on use
deepspeed_state.py     its checkpoint state
build_lock.py          lock of its C++ builds, which a killed process does not leave behind
megatron_engine.py     Megatron-Core; imported on use
megatron_model.py      its model, optimizer, and an adapter with our model's interface
megatron_weights.py    weight conversion
megatron_state.py      its checkpoint state
"""

import torch.distributed as dist
from torch import nn

from groundup.artifacts.machine import Machine
from groundup.plan.layout import parallel_layout
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.engine import CorruptCheckpoint, Engine
from groundup.train.engines.native_engine import NativeEngine
from groundup.train.engines.parallel_engine import ParallelEngine
from groundup.train.objectives import Objective

__all__ = ["CorruptCheckpoint", "Engine", "NativeEngine", "ParallelEngine", "build_engine"]


def build_engine(
    model: nn.Module, objective: Objective, settings: TrainConfig, machine: Machine, *, whole_batches: bool = False
) -> Engine:
    """The engine that `settings.engine` and the number of ranks ask for. `model` is the full model, on its device.

    `whole_batches`: every rank is given the same batch, of any number of sequences; native engine only.

    Raises UserError if machine.layout does not match the number of devices or cannot compute the model.
    """
    layout = LayoutConfig(**machine.layout)
    if settings.engine == "deepspeed":
        from groundup.train.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, objective, settings, machine, layout)
    if settings.engine == "megatron":
        from groundup.train.engines.megatron_engine import MegatronEngine

        return MegatronEngine(model, objective, settings, machine, layout)
    if dist.is_initialized() and dist.get_world_size() > 1:
        return ParallelEngine(model, objective, settings, machine, layout, whole_batches)
    parallel_layout.complete_layout(layout, 1)
    return NativeEngine(model, objective, settings, machine)
