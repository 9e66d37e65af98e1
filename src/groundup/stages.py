"""The table of pipeline stages: names, folders, recipe sections, inputs.

Imports no chapter, so that every chapter can name a stage's folder; `pipeline` runs the stages.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: name on the command line and in manifests.
        folder: folder in the run folder.
        section: recipe section that turns the stage on.
        function: "module:function" with the signature run(recipe, inputs, out, machine) -> metrics.
        extra_sections: recipe sections that the stage may read, beside `section`.
        inputs: earlier stages whose folders the stage may read, if the recipe has them.
        required_sections: recipe sections that the stage cannot do without.
        version: raised when the same recipe would give a different result than before.
        distributed: runs on all ranks, unless its section has a `one_device_reason`; other stages run on the main rank only.
        checks_inputs: the function itself compares the files that it reads with their hashes; the runner does it for others.
        uses_device: computes on machine.device.
        check: "module:function" of the derived recipe that raises UserError for what the stage would refuse.
        packages: optional packages that the stage imports.
        identity: "module:function" that maps (section, machine) to the content hashes of files outside the run.
    """

    name: str
    folder: str
    section: str
    function: str
    extra_sections: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    required_sections: tuple[str, ...] = ()
    version: int = 1
    distributed: bool = False
    checks_inputs: bool = False
    uses_device: bool = False
    check: str | None = None
    packages: tuple[str, ...] = ()
    identity: str | None = None


MODEL_STAGES = ("base", "chat", "preference", "reinforcement")
"""Stages that train one model further, in this order; the last of them that a recipe has gives the model of the run."""

STAGES = (
    Stage(
        "data", "01-data", "data", "groundup.data.stage:run", extra_sections=("seed",),
        identity="groundup.data.inputs:input_hashes",
        version=7,
    ),
    Stage(
        "tokenizer", "02-tokenizer", "tokenizer", "groundup.tokenizer.stage:train", extra_sections=("seed",), inputs=("data",),
        required_sections=("data",), identity="groundup.tokenizer.pretrained:hash_tokenizers",
    ),
    Stage("tokens", "03-tokens", "tokenizer", "groundup.tokenizer.stage:encode", inputs=("data", "tokenizer")),
    Stage(
        "base", "04-base", "train", "groundup.train.stage:run", extra_sections=("model", "seed"), inputs=("tokenizer", "tokens"),
        required_sections=("model", "tokenizer"), distributed=True, uses_device=True,
        check="groundup.plan.checks.stage_support:check_base", identity="groundup.tokenizer.token_shards:hash_shards",
    ),
    Stage(
        "scores", "05-scores", "evaluate", "groundup.evaluate.stage:run", extra_sections=("seed",), version=3,
        inputs=("tokenizer", "tokens", "base"), required_sections=("train",), uses_device=True,
        check="groundup.plan.checks.stage_support:check_scores",
        identity="groundup.data.inputs:hash_task_files",
    ),
    Stage(
        "chat", "06-chat", "finetune", "groundup.finetune.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", "base"), required_sections=("train",), distributed=True, uses_device=True,
        check="groundup.finetune.training_data.input_check:check_chat_stage",
        identity="groundup.finetune.training_data.conversations:identity",
        version=2,
    ),
    Stage(
        "preference", "07-preference", "preference", "groundup.finetune.preference.stage:run", extra_sections=("seed",),
        inputs=("base", "chat"), required_sections=("train",), distributed=True, uses_device=True,
        check="groundup.finetune.preference.preference_plan:check_preference",
        identity="groundup.finetune.preference.preference_plan:identity",
    ),
    Stage(
        "reinforcement", "08-reinforcement", "reinforcement", "groundup.finetune.reinforcement.stage:run",
        extra_sections=("seed",), inputs=MODEL_STAGES[:-1], required_sections=("train",), distributed=True, uses_device=True,
        check="groundup.finetune.reinforcement.reinforcement_plan:check_reinforcement",
        identity="groundup.finetune.reinforcement.reinforcement_plan:identity",
    ),
    Stage(
        "quantized", "09-quantized", "quantize", "groundup.quantize.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", *MODEL_STAGES), required_sections=("train",), uses_device=True,
        check="groundup.plan.checks.stage_support:check_quantized",
    ),
    Stage(
        "export", "10-export", "export", "groundup.quantize.stage:export", extra_sections=("seed",),
        inputs=("tokens", *MODEL_STAGES), required_sections=("train",), version=2,
        check="groundup.interop.export_support:check_export",
    ),
    Stage(
        "report", "11-report", "report", "groundup.report.stage:run", extra_sections=("name",),
        checks_inputs=True,
        inputs=("data", "tokenizer", "tokens", "scores", *MODEL_STAGES, "quantized", "export"),
        packages=("typst", "matplotlib"),
    ),
)  # fmt: skip

STAGE_FOLDERS = {stage.name: stage.folder for stage in STAGES}

ITEM_SCORES_FILE = "items.jsonl"
"""In 05-scores: the score of each item, which comparisons pair."""


def last_model_stage(names: Collection[str]) -> str | None:
    """The last of MODEL_STAGES in `names`; None if there is none.

    >>> last_model_stage(["tokens", "base", "chat"])
    'chat'
    """
    return next((name for name in reversed(MODEL_STAGES) if name in names), None)


BASE_IDENTITY = "groundup.interop.base_model:identity"
FROM_BASE: dict[str, dict[str, Any]] = {
    "tokenizer": {
        "section": "base", "function": "groundup.interop.base_model:write_tokenizer", "extra_sections": (), "inputs": (),
        "identity": BASE_IDENTITY,
    },
    "tokens": {"section": "data"},
    "base": {
        "section": "base", "function": "groundup.quantize.stage:write_base", "extra_sections": (), "inputs": (),
        "required_sections": (), "distributed": False, "uses_device": False, "check": None, "identity": BASE_IDENTITY,
    },
}  # fmt: skip
"""What changes in the table for a recipe with [base], by stage."""
BASE_CHECKS = {"chat": "groundup.finetune.finetune_plan:check_base_chat"}
"""Checks of a recipe with [base], where they differ."""
BASE_FUNCTIONS = {"scores": "groundup.quantize.stage:score_base"}
"""Functions that open packed weights, which [base] may name."""


HARNESS_CHECKS = {
    "base": ("train", "groundup.evaluate.harness_support:check_base"),
    "scores": ("evaluate", "groundup.evaluate.harness_support:check_scores"),
}
"""(section, check) of stages whose section has tasks of lm-evaluation-harness: others need no package of evaluation."""


def recipe_stages(recipe: Any, stages: Iterable[Stage] = STAGES) -> Iterator[Stage]:
    """The stages that `recipe` can have: with [base], the model comes from there, and its tokenizer encodes [data]."""
    for stage in _stages_with_base(recipe, stages):
        section, check = HARNESS_CHECKS.get(stage.name, ("", ""))
        if stage.check is not None and getattr(getattr(recipe, section, None), "harness", None) is not None:
            yield replace(stage, check=check)
        else:
            yield stage


def _stages_with_base(recipe: Any, stages: Iterable[Stage]) -> Iterator[Stage]:
    for stage in stages:
        if recipe.base is None:
            yield stage
        elif stage.name == "base" and recipe.train is not None:
            yield replace(stage, extra_sections=(*stage.extra_sections, "base"), required_sections=("data",))
        elif stage.name in FROM_BASE and (stage.name == "base" or recipe.data is not None):
            yield replace(stage, **FROM_BASE[stage.name])
        elif stage.name not in FROM_BASE:
            required = tuple("base" if section == "train" else section for section in stage.required_sections)
            check, function = BASE_CHECKS.get(stage.name, stage.check), BASE_FUNCTIONS.get(stage.name, stage.function)
            yield replace(stage, required_sections=required, check=check, function=function)
