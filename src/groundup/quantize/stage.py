"""Stage 09-quantized: quantize the model of the last training stage. Stage 10-export.

Stages 04-base and 05-scores with [base].
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from groundup import interop
from groundup.artifacts.directory import FINGERPRINT_FILE
from groundup.artifacts.machine import Machine
from groundup.evaluate import stage as evaluate_stage
from groundup.interop import base_model
from groundup.interop.classifier_files import copy_classifier
from groundup.interop.export_check import check_token_ids, largest_difference, sample_outputs
from groundup.interop.families.select_family import select_family
from groundup.interop.fold_scales import fold_scales
from groundup.interop.model_card import write_card_files
from groundup.interop.model_export import export as export_model
from groundup.interop.model_export import own_dtype
from groundup.interop.model_loading import is_quantized
from groundup.model import save_model
from groundup.plan.checks.stage_support import check_quantization
from groundup.plan.shape.parameter_count import count_parameters
from groundup.quantize.block_checkpoint import BLOCKS_FOLDER
from groundup.quantize.calibration_text import calibration_text
from groundup.quantize.gguf_calibration import gguf_importance
from groundup.quantize.layers.quantized_linear import quantized_layers
from groundup.quantize.model_loader import load_quantized_model, open_model
from groundup.quantize.model_scores import score_against_float
from groundup.quantize.price_table import worse_than_rounding
from groundup.quantize.process_measurement import measure_process
from groundup.quantize.quantization_grid import integer_scheme
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, dequantize_model, quantize_model
from groundup.quantize.standalone import describe_text, quantization_settings, quantization_summary
from groundup.quantize.weight_check import check_weights
from groundup.recipe import ModelConfig, RecipeView
from groundup.stages import last_model_stage

MEASURED_BYTES = 2**25
"""Weights from which memory is measured; smaller models need less than PyTorch's own buffers."""


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Quantize, and compare with the float model and with rounding to nearest at the same scheme.

    Returns the metrics: method, bits, bits_by_layer, group_size, symmetric, bits_per_weight, from (stage of the model),
    bytes (before, after), weights (quantized, others), calibration_tokens (text, chat), text_origin (corpus,
    conversations or samples), held_out (for float, rtn and the method: `score_against_float`, and bytes),
    processes (for float and the method: `measure_process`), layers (for each: error, rtn_error).
    """
    for entry in out.iterdir():  # of a killed attempt, the finished blocks are kept
        if entry.name not in (FINGERPRINT_FILE, BLOCKS_FOLDER):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    section = recipe.quantize
    origin = last_model_stage(inputs) or "base"
    source = inputs[origin]
    torch.set_num_threads(machine.threads)
    model, tokenizer = interop.open_model(source, machine.device, verify=False)
    check_quantization(section)
    check_weights(model)
    settings = quantization_settings(section, recipe.seed)
    material = calibration_text(model, tokenizer, inputs, section, recipe.seed)
    for line in describe_text(material):
        machine.progress.log(line)

    # in place, and the float model is read again: one copy of the weights at a time
    errors = quantize_model(model, settings, material.windows, machine.progress, checkpoint=out / BLOCKS_FOLDER)
    models = {"rtn": interop.open_model(source, machine.device, verify=False)[0]}
    quantize_model(models["rtn"], QuantizationSettings("rtn", integer_scheme(settings.scheme)))
    models |= {section.method: model}
    quantized, (model, _) = model, interop.open_model(source, machine.device, verify=False)
    scores = score_against_float(model, models, tokenizer, material, recipe.seed, machine.progress)
    if section.size is None and (warning := worse_than_rounding(section.method, scores[section.method], scores["rtn"])):
        machine.progress.log(f"warning: {warning}")

    save_quantized_folder(quantized.cpu(), out, section.method)
    tokenizer.save(out)
    copy_classifier(source, out)
    shutil.rmtree(out / BLOCKS_FOLDER)
    summary = quantization_summary(quantized, errors, source, out)
    for name, row in scores.items():  # rounded weights take as much as those of the method
        row["bytes"] = summary["bytes"]["before" if name == "float" else "after"]
    processes = {}
    if summary["bytes"]["before"] >= MEASURED_BYTES:
        processes = {
            name: measure_process(folder, machine.device, machine.threads)
            for name, folder in (("float", source), (section.method, out))
        }
    return {
        "from": origin,
        **summary,
        "calibration_tokens": {"text": material.text.numel(), "chat": material.chat.numel()},
        "text_origin": material.origin,
        "eval_tokens": material.compared.numel(),
        "held_out": scores,
        "processes": processes,
        "layers": [asdict(error) for error in errors],
    }


def write_base(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 04-base with [base]: `base_model.run`; packed weights stay packed, in groundup's own layout, which has no NF4:
    this is unpacked, and qlora packs it again.

    Returns its metrics; `dtype` is the number of bits of packed weights.
    """
    assert recipe.base is not None
    path = base_model.base_model_path(recipe.base)
    if not is_quantized(path):
        return base_model.run(recipe, inputs, out, machine)
    with machine.progress.task("reading the model", total=1, unit="models") as task:
        model, tokenizer = load_quantized_model(path)
        if quantized_layers(model):
            dtype = f"{save_quantized_folder(model, out, 'as in base.model').bits} bits"
        else:
            dtype = str(next(dequantize_model(model).parameters()).dtype).removeprefix("torch.")
            save_model(model, out)
        tokenizer.save(out)
        write_card_files(path, out)
        task.advance()
    config: ModelConfig = model.config  # type: ignore[assignment]
    return base_model.describe(config, path) | {"parameters": count_parameters(config).total, "dtype": dtype}


def score_base(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 05-scores on the model of [base]."""
    return evaluate_stage.run(recipe, inputs, out, machine, open_model)


def export(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Export the model, read the export again, and compare the logits of both.

    Returns the metrics format, dtype, family, from (stage of the model), files, bytes, max_logit_difference.
    """
    for entry in out.iterdir():  # leftovers of an interrupted attempt
        if entry.name != FINGERPRINT_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    source = last_model_stage(inputs) or "base"
    with machine.progress.task("export", total=2, unit="steps") as task:
        model, tokenizer = interop.open_model(inputs[source], device="cpu", verify=False)
        dtype = recipe.export.dtype or str(own_dtype(model)).removeprefix("torch.")
        importance = None
        if recipe.export.format == "gguf":
            importance, said = gguf_importance(model, tokenizer, inputs, dtype, recipe.seed)
            machine.progress.log(said) if said else None
        files = export_model(
            model,
            tokenizer,
            out,
            format=recipe.export.format,
            dtype=dtype,
            source=inputs[source],
            importance=importance,
        )
        family = select_family(fold_scales(model)[0]).name
        expected = sample_outputs(model)
        del model  # one model in memory at a time
        task.advance()
        reopened, exported = interop.open_model(out, device="cpu", dtype=torch.float32)
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
