"""Checks of this machine against a recipe, before the first stage: devices, precision, engine, trackers."""

from groundup.artifacts.machine import Machine
from groundup.artifacts.rank_environment import world_size
from groundup.interop import resolve_device
from groundup.parallel.elastic_launch import check_devices
from groundup.plan.checks.engine_support import check_engine_installed
from groundup.recipe.train_config import TrainConfig
from groundup.train.mixed_precision import require_float8
from groundup.train.trackers import check_trackers


def check_machine(machine: Machine, train: TrainConfig | None) -> None:
    """Raises UserError if a device, engine or package is missing.

    Args:
        train: None where only later stages are left, which have one process and no engine.
    """
    device = resolve_device(machine.device)
    if train is None:
        return
    if world_size() == 1 and machine.devices > 1:
        check_devices(machine.device, machine.devices)
    check_engine_installed(train.engine)
    if train.precision == "float8":
        require_float8(device)
    if train.engine == "megatron":
        from groundup.train.engines.megatron_model import check_megatron

        check_megatron()
    check_trackers(machine.trackers or ())
