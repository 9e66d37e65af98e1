"""Stages of a recipe with [base] that open packed weights as well: 04-base, and 05-scores on it."""

from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.evaluate import stage as evaluate_stage
from groundup.interop import base_model
from groundup.interop.model_card import write_card_files
from groundup.interop.model_loading import is_quantized
from groundup.plan.parameter_count import count_parameters
from groundup.quantize.model_loader import load_quantized_model, open_model
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.recipe import ModelConfig, RecipeView


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 04-base: `base_model.run`; packed weights stay packed, in groundup's own layout.

    Returns its metrics; `dtype` is the number of bits of packed weights.
    """
    assert recipe.base is not None
    path = base_model.base_model_path(recipe.base)
    if not is_quantized(path):
        return base_model.run(recipe, inputs, out, machine)
    with machine.progress.task("reading the model", total=1, unit="models") as task:
        model, tokenizer = load_quantized_model(path)
        scheme = save_quantized_folder(model, out, "as in base.model")
        tokenizer.save(out)
        write_card_files(path, out)
        task.advance()
    config: ModelConfig = model.config  # type: ignore[assignment]
    return base_model.describe(config, path) | {
        "parameters": count_parameters(config).total,
        "dtype": f"{scheme.bits} bits",
    }


def evaluate(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 05-scores on the model of [base]."""
    return evaluate_stage.run(recipe, inputs, out, machine, open_model)
