"""`groundup plan --calibrate`: the speed of this machine, measured, in the recipe that is planned."""

from collections.abc import Callable

from groundup.artifacts.errors import UserError
from groundup.recipe import Recipe


def calibrate_recipe(recipe: Recipe, log: Callable[[str], None]) -> Recipe:
    """The recipe with the speed of this machine, measured; the knob is logged."""
    from groundup.interop import resolve_device
    from groundup.plan.derive import resolved_model_config
    from groundup.plan.hardware import device_spec
    from groundup.stage_runs import derive_recipe
    from groundup.train.speed_calibration import calibrate_speed

    planned = derive_recipe(recipe)
    if planned.recipe.train is None:
        raise UserError("--calibrate: the recipe has no [train] table", hint="add one, or leave --calibrate out")
    kind = device_spec(recipe.budget.hardware).kind
    device = "cpu" if kind == "cpu" else "mps" if kind == "apple" else "cuda"
    try:
        resolve_device(device)
    except UserError as error:
        raise UserError(
            f"--calibrate: budget.hardware = {recipe.budget.hardware} is not this machine's: {error.message}",
            hint="calibrate on the machine that trains, or set budget.hardware=this-machine",
        ) from None
    log("measuring training steps: half a minute")
    config = resolved_model_config(planned.recipe)
    found = calibrate_speed(recipe.budget.hardware, config, planned.recipe.train, device)
    log(
        f"a step takes {found.measured:.3g} s here, planned on {recipe.budget.hardware}: {found.planned:.3g} s; the plan takes "
        f"budget.relative_speed = {found.relative_speed:.3g}: set it in the recipe to keep it"
    )
    budget = recipe.budget.model_copy(update={"relative_speed": found.relative_speed})
    return recipe.model_copy(update={"budget": budget})
