"""Micro-batch and activation checkpointing with which training fits into the memory of a device."""

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import ActivationCheckpointing
from groundup.plan.checks.feasibility import nearest_layout
from groundup.plan.defaults.training_knobs import require_derived
from groundup.plan.hardware import DeviceSpec
from groundup.plan.layout.layout_search import MEMORY_FRACTION
from groundup.plan.memory.memory_estimate import DeviceKind, MemoryEstimate, estimate_training_memory
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.train_config import TrainConfig


def fit_device_memory(
    config: ModelConfig,
    train: TrainConfig,
    layout: LayoutConfig,
    machine: MachineConfig,
    device: DeviceSpec,
    kind: DeviceKind,
    *,
    with_hints: bool = True,
) -> tuple[MemoryEstimate, int, ActivationCheckpointing]:
    """Memory, micro-batch and checkpointing: no checkpointing if possible, then the largest micro-batch that fits."""
    length = require_derived(train.sequence_length, "train.sequence_length")
    batch_tokens = require_derived(train.batch_tokens, "train.batch_tokens")
    sequences = batch_tokens // length // (layout.replicate * (layout.shard or 1))
    available = MEMORY_FRACTION * device.memory_bytes
    choices: tuple[ActivationCheckpointing, ...] = ("none", "full")
    if machine.activation_checkpointing != "none":
        choices = (machine.activation_checkpointing,)
    for checkpointing in choices:
        micro_batch = machine.micro_batch_size or max(1, sequences)
        while micro_batch >= 1:
            need = estimate_training_memory(config, length, micro_batch, layout, checkpointing, train, kind=kind)
            if need.total <= available:
                return need, micro_batch, checkpointing
            micro_batch = 0 if machine.micro_batch_size else micro_batch // 2
    least = estimate_training_memory(
        config, length, machine.micro_batch_size or 1, layout, choices[-1], train, kind=kind
    )
    devices = layout.num_devices
    raise UserError(
        f"training needs {least.total / 1e9:.0f} GB on each of {devices} devices, expected at most {available / 1e9:.0f} GB",
        hint=f"{nearest_layout(config, train, device, devices)}; or a smaller model" if with_hints else None,
    )
