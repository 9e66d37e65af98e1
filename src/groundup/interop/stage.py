"""10-export: the model of the last training stage, in an export format."""

import shutil
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts.directory import FINGERPRINT_FILE
from groundup.artifacts.machine import Machine
from groundup.interop.export_check import check_token_ids, largest_difference, sample_outputs
from groundup.interop.families.select_family import select_family
from groundup.interop.fold_scales import fold_scales
from groundup.interop.model_export import export, own_dtype
from groundup.interop.model_loading import open_model
from groundup.recipe import RecipeView
from groundup.stages import last_model_stage


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Export the model, read the export again, and compare the logits of both.

    Returns the metrics format, dtype, family, from (stage of the model), files, bytes, max_logit_difference.
    """
    for entry in out.iterdir():  # leftovers of an interrupted attempt
        if entry.name != FINGERPRINT_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    source = last_model_stage(inputs) or "base"
    with machine.progress.task("export", total=2, unit="steps") as task:
        model, tokenizer = open_model(inputs[source], device="cpu", verify=False)
        dtype = recipe.export.dtype or str(own_dtype(model)).removeprefix("torch.")
        files = export(model, tokenizer, out, format=recipe.export.format, dtype=dtype, source=inputs[source])
        family = select_family(fold_scales(model)[0]).name
        expected = sample_outputs(model)
        del model  # one model in memory at a time
        task.advance()
        reopened, exported = open_model(out, device="cpu", dtype=torch.float32)
        difference = largest_difference(expected, sample_outputs(reopened))
        check_token_ids(tokenizer, exported, str(out))
        task.advance()
    return {
        "format": recipe.export.format,
        "dtype": dtype,
        "family": family,
        "from": source,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "max_logit_difference": difference,
    }
