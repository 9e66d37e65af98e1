"""How the devices of a run divide the work of [finetune], [preference] and [reinforcement]: by the rows of each batch.

Every device computes its part of every batch, over weights that are sharded (machine.layout.shard) or copied
(machine.layout.replicate). The other axes split what an adapter, or a loss of whole answers, needs in one piece.
"""

from collections.abc import Iterator
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.layout.parallel_layout import complete_layout, planned_devices
from groundup.recipe import Recipe
from groundup.recipe.layout_config import LayoutConfig

TUNING_SECTIONS = ("finetune", "preference", "reinforcement")
OTHER_AXES = {
    "tensor": "a matrix and its adapter are not split",
    "pipeline": "a loss of whole answers needs the whole model",
    "context": "rows are short, and not split",
    "expert": "the experts of a mixture are sharded as other weights are",
}
"""Axes of pretraining, and why tuning has none."""


def check_tuning_layout(recipe: Recipe, section: str) -> None:
    """Raises UserError for a layout that the stage of `section` has not.

    After [train] the layout is that of pretraining, and tuning takes all its devices for rows: `describe_tuning_devices`
    says so.
    """
    layout, devices = recipe.machine.layout, planned_devices(recipe)
    if recipe.train is not None:
        return
    for axis, reason in OTHER_AXES.items():
        if (size := getattr(layout, axis)) > 1:
            raise UserError(
                f"machine.layout.{axis} = {size} with [{section}]: {reason}",
                hint="use machine.layout.shard, which divides weights and batches",
            )
    for name, value in (("zero_stage", layout.zero_stage), ("cpu_offload", layout.cpu_offload)):
        if value not in (None, "none", "all"):
            raise UserError(f"machine.layout.{name} = {value!r} with [{section}]: needs DeepSpeed", hint="leave it out")
    if devices > 1 and (reason := one_device_reason(recipe, section)) is not None:
        raise UserError(f"machine.devices = {devices} with [{section}]: {reason}", hint="set machine.devices=1")
    complete_layout(layout, devices)


def one_device_reason(recipe: Any, section: str) -> str | None:
    """Why the stage of `section` computes on one device; None if it divides its batches."""
    return getattr(recipe, section).one_device_reason


def tuning_layout(layout: LayoutConfig, devices: int) -> LayoutConfig:
    """The layout of a tuning stage on all `devices` of a run with `layout`.

    >>> tuning_layout(LayoutConfig(tensor=2, pipeline=2), 4).shard, tuning_layout(LayoutConfig(replicate=2), 4).shard
    (4, 2)
    """
    replicate = layout.replicate if devices % layout.replicate == 0 else 1
    return LayoutConfig(
        replicate=replicate,
        shard=devices // replicate,
        reshard_after_forward=layout.reshard_after_forward,
        cpu_offload="all" if layout.cpu_offload == "all" else "none",
    )


def describe_tuning_devices(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(section, what the devices do), for each stage that tunes a model, with several devices."""
    devices = planned_devices(recipe)
    for section in TUNING_SECTIONS if devices > 1 else ():
        if getattr(recipe, section) is None:
            continue
        if (reason := one_device_reason(recipe, section)) is not None:
            yield section, f"one of {devices} devices: {reason}"
            continue
        layout = tuning_layout(recipe.machine.layout, devices)
        text = f"{devices} devices, each with its part of every batch; weights in {layout.shard} shards"
        if layout.replicate > 1:
            text += f", {layout.replicate} copies"
        if unused := [axis for axis in OTHER_AXES if getattr(recipe.machine.layout, axis) > 1]:
            text += f"; machine.layout.{', '.join(unused)}: for pretraining"
        yield section, text
