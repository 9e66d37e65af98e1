"""The stages of one run with their folders and fingerprints, and the plan that follows from the run's text."""

import importlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from groundup.artifacts.directory import partial_path
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.data.dedup_estimate import estimate_file_bytes
from groundup.data.inputs import local_files
from groundup.plan import Plan, derive
from groundup.plan.derive import SECONDS_PER_HOUR
from groundup.plan.time.stage_time import estimate_stage_seconds
from groundup.recipe import Recipe
from groundup.recipe.base_model_config import BaseModelConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.stages import STAGE_FOLDERS, STAGES, Stage, recipe_stages

NOT_FINGERPRINTED = {"train": {"engine"}, "base": {"model"}}
"""Knobs outside [machine] that do not change the result: recorded in recipe.json, not fingerprinted. The content of
base.model is."""

StageState = Literal["complete", "stale", "interrupted", "missing"]


@dataclass(frozen=True)
class StageRun:
    """A stage of one run: its folder, and the fingerprint that makes it up to date."""

    stage: Stage
    path: Path
    sections: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str

    def manifest(self) -> Manifest | None:
        return Manifest.read(self.path)

    def state(self) -> StageState:
        """State of the folder; stale: complete, but built by another recipe or stage version."""
        manifest = self.manifest()
        if manifest is not None:
            return "complete" if manifest.fingerprint == self.fingerprint else "stale"
        return "interrupted" if partial_path(self.path).exists() else "missing"


def resolve_stage_runs(
    recipe: Recipe, run_folder: Path, machine: Machine, until_stage: str | None = None
) -> list[StageRun]:
    """The stages of a derived recipe in order, up to and including `until_stage`."""
    last = next((index for index, stage in enumerate(STAGES, 1) if stage.name == until_stage), None)
    stage_runs: dict[str, StageRun] = {}
    for stage in recipe_stages(recipe, STAGES[:last]):
        section = getattr(recipe, stage.section)
        if section is None:
            continue
        if missing := [table for table in stage.required_sections if getattr(recipe, table) is None]:
            tables = "[train] or [base]" if missing[0] == "train" else f"[{missing[0]}]"
            raise UserError(
                f"[{stage.section}] needs {tables}, which the recipe does not have",
                hint=f"add a {tables} table, or remove [{stage.section}]",
            )
        names = (stage.section, *stage.extra_sections)
        values = {name: getattr(recipe, name) for name in names}
        sections: dict[str, Any] = {
            name: value.model_dump(mode="json", exclude=NOT_FINGERPRINTED.get(name))
            if hasattr(value, "model_dump")
            else value
            for name, value in values.items()
        }
        inputs = {name: stage_runs[name].fingerprint for name in stage.inputs if name in stage_runs}
        identity = {"stage": stage.name, "version": stage.version, "sections": sections, "inputs": inputs}
        try:
            outside = call_by_reference(stage.identity, section, machine) if stage.identity else {}
            digest = fingerprint(identity | {"outside": outside})
        except UserError:
            if (digest := _fingerprint_without_inputs(run_folder / stage.folder, identity)) is None:
                raise
        stage_runs[stage.name] = StageRun(stage, run_folder / stage.folder, sections, inputs, digest)
    return list(stage_runs.values())


def _fingerprint_without_inputs(folder: Path, identity: dict[str, Any]) -> str | None:
    """The fingerprint of a complete stage whose source files were removed since; None if the recipe differs.

    A raw crawl is deleted once it is cleaned, and a finished corpus is copied to the training machine.
    """
    manifest = Manifest.read(folder)
    recorded = {name: getattr(manifest, name, None) for name in identity}
    return manifest.fingerprint if manifest and recorded == json.loads(json.dumps(identity)) else None


def plan_run(recipe: Recipe, run_folder: Path, machine: Machine) -> Plan:
    """The plan of a recipe: for the tokens of the run's text if they are counted, else for text without end."""
    derive_plan = partial(_derive_in_run, recipe, run_folder)
    plan = derive_plan()
    has_tokenizer = recipe.tokenizer is not None or recipe.base is not None
    if recipe.train is None or not has_tokenizer or recipe.train.token_shards is not None:
        return plan
    manifest = Manifest.read(run_folder / STAGE_FOLDERS["tokens"])
    if manifest is None:
        return plan
    stage_runs = {each.stage.name: each for each in resolve_stage_runs(plan.recipe, run_folder, machine, "tokens")}
    if "tokens" not in stage_runs or stage_runs["tokens"].state() != "complete":
        return plan
    return derive_plan(manifest.metrics["train"]["tokens"])


def derive_recipe(recipe: Recipe, data_tokens: int | None = None) -> Plan:
    """`derive`; the configuration of the model of [base] is read from its folder or file."""
    if recipe.base is None:
        return derive(recipe, data_tokens)
    from groundup.interop.base_model import check_packed_base, read_base_config  # imports torch

    check_packed_base(recipe)
    return derive(recipe, data_tokens, read_base_config(recipe.base))


def _derive_in_run(recipe: Recipe, run_folder: Path, data_tokens: int | None = None) -> Plan:
    """`derive_recipe`; where the model of [base] was removed since, from the run's copy of it."""
    copy = run_folder / STAGE_FOLDERS["base"]
    try:
        return derive_recipe(recipe, data_tokens)
    except UserError:
        if recipe.base is None or Manifest.read(copy) is None:
            raise
    plan = derive_recipe(recipe.model_copy(update={"base": BaseModelConfig(model=str(copy))}), data_tokens)
    return replace(plan, recipe=plan.recipe.model_copy(update={"base": recipe.base}))


def estimate_run_seconds(
    plan: Plan, machine: Machine, finetuning_hours: float | None = None
) -> dict[str, float] | None:
    """Seconds of each stage, from the sizes of the files of text and conversations; None: not known.

    `finetuning_hours`: of the training alone, where it was estimated from the conversations themselves.
    """
    recipe = plan.recipe
    text = [estimate_file_bytes(spec, machine) for spec in recipe.data.sources] if recipe.data else []
    tuning = recipe.finetune
    chat: list[tuple[float, float | None]] = []
    if tuning:
        chat += [(spec.repeats, estimate_file_bytes(spec, machine)) for spec in tuning.conversations]
        chat += [(1.0, estimate_file_bytes(spec, machine)) for spec in tuning.examples]
        if not chat:  # pairs are cut out of the text
            chat += [(1.0, size) for size in text]
        elif finetuning_hours is None:
            share = _share_kept(tuning)
            chat = [(share * repeats, size) for repeats, size in chat]
    scored = local_files(recipe.evaluate.text) if recipe.evaluate and recipe.evaluate.text else None
    return estimate_stage_seconds(
        plan,
        None if None in text else sum(size or 0.0 for size in text),
        None if any(size is None for _, size in chat) else sum(repeats * (size or 0.0) for repeats, size in chat),
        None if scored is None else sum(path.stat().st_size for _, path in scored),
        None if finetuning_hours is None else finetuning_hours * SECONDS_PER_HOUR,
    )


def _share_kept(config: FinetuneConfig) -> float:
    """Share of the conversations or examples that are neither duplicates nor broken; 1 where they are not read here.

    Catalogues are 1, too: their size is that of the translated messages.
    """
    from groundup.finetune.training_data.input_check import count_inputs

    stats = None if any(source.kind == "gettext" for source in config.conversations) else count_inputs(config)
    return stats.kept / stats.read if stats else 1.0


def call_by_reference(reference: str, *arguments: Any) -> Any:
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)(*arguments)
