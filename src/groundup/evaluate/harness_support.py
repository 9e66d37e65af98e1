"""Checks of [evaluate.harness] and [train.harness], and of the rest of their stages, before the first stage."""

from importlib.util import find_spec
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.plan.checks import stage_support
from groundup.plan.derive import resolved_model_config
from groundup.recipe import Recipe
from groundup.recipe.evaluate_config import HarnessConfig

SPLITTING = ("tensor", "pipeline", "context", "expert")
"""Axes of a layout that divide a layer or a sequence."""


def check_base(recipe: Recipe) -> None:
    """Stage base: what `stage_support` checks, and tasks that cannot be scored during training."""
    stage_support.check_base(recipe)
    if recipe.train is None or recipe.train.harness is None:
        return
    check_harness(recipe, "train.harness", recipe.train.harness)
    sizes = recipe.machine.layout.model_dump()
    if split := [name for name in SPLITTING if (sizes.get(name) or 1) > 1]:
        raise UserError(
            f"train.harness with machine.layout.{split[0]} = {sizes[split[0]]}: tasks need the whole model on each device",
            hint="score the finished model: [evaluate.harness]",
        )


def check_scores(recipe: Recipe) -> None:
    """Stage scores: what `stage_support` checks, and tasks of the harness."""
    stage_support.check_scores(recipe)
    if recipe.evaluate is not None and recipe.evaluate.harness is not None:
        check_harness(recipe, "evaluate.harness", recipe.evaluate.harness)


def check_harness(recipe: Recipe, knob: str, config: HarnessConfig) -> None:
    """Raises UserError for an architecture, a task, a folder or a dataset that cannot be, ModuleNotFoundError without lm_eval."""
    if (architecture := resolved_model_config(recipe).architecture) != "decoder":
        raise UserError(
            f"{knob} with model.architecture = {architecture}: tasks are scored by the likelihood of a text, which only a "
            "decoder defines",
            hint=f"leave {knob} out",
        )
    if (folder := recipe.machine.harness_datasets) is not None and not Path(folder).is_dir():
        raise UserError(f"machine.harness_datasets = {folder}: no such folder", hint="a folder PATH/NAME/SPLIT")
    if find_spec("lm_eval") is None:
        raise ModuleNotFoundError(f"{knob} needs lm_eval", name="lm_eval")
    from groundup.evaluate.harness_tasks import harness_tasks
    from groundup.evaluate.lm_eval_adapter import check_datasets

    if folder is None:
        harness_tasks(config.tasks)
    else:
        check_datasets(config.tasks, Path(folder), config.num_fewshot)
