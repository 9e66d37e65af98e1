"""Stage 09-quantized: quantize the model of the last training stage. Stages 04-base and 05-scores with [base]."""

import copy
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
from groundup.interop.model_card import write_card_files
from groundup.interop.model_loading import is_quantized
from groundup.plan.parameter_count import count_parameters
from groundup.plan.stage_support import check_quantization
from groundup.quantize.calibration_text import calibration_text
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.model_loader import load_quantized_model, open_model
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.quantize.standalone import quantization_summary
from groundup.recipe import ModelConfig, RecipeView
from groundup.stages import last_model_stage


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Quantize, and compare with the float model and with rounding to nearest at the same scheme.

    Returns the metrics: method, bits, group_size, symmetric, bits_per_weight, from (stage of the model), bytes (before,
    after), weights (quantized, others), calibration_tokens (text, chat), text_origin (corpus,
    conversations or samples), held_out (for float, rtn and the method: loss, bits_per_byte, kl_divergence,
    top1_agreement), layers (for each: error, rtn_error).
    """
    for entry in out.iterdir():  # a killed attempt is started again, not resumed
        if entry.name != FINGERPRINT_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    section = recipe.quantize
    origin = last_model_stage(inputs) or "base"
    source = inputs[origin]
    torch.set_num_threads(machine.threads)
    model, tokenizer = interop.open_model(source, machine.device, verify=False)
    check_quantization(model.config.architecture)  # type: ignore[union-attr,arg-type]
    scheme = QuantizationScheme(section.bits, section.group_size, section.symmetric)
    settings = QuantizationSettings(section.method, scheme, section.damp_percent, section.act_order)
    material = calibration_text(model, tokenizer, inputs, section, recipe.seed)
    windows = material.compared

    quantized = copy.deepcopy(model)
    errors = quantize_model(quantized, settings, torch.cat([material.text, material.chat]), machine.progress)
    models = {"rtn": copy.deepcopy(model)}
    quantize_model(models["rtn"], QuantizationSettings("rtn", scheme))
    models |= {section.method: quantized}
    with machine.progress.task("comparing", total=windows.numel(), unit="tokens") as task:
        compared = compare_with_float(model, models, windows, task)

    save_quantized_folder(quantized.cpu(), out, section.method)
    tokenizer.save(out)
    copy_classifier(source, out)
    return {
        "from": origin,
        **quantization_summary(quantized, errors, source, out),
        "calibration_tokens": {"text": material.text.numel(), "chat": material.chat.numel()},
        "text_origin": material.origin,
        "eval_tokens": windows.numel(),
        "held_out": {
            n: asdict(c) | {"bits_per_byte": c.bits_per_byte(material.bytes_per_token)} for n, c in compared.items()
        },
        "layers": [asdict(error) for error in errors],
    }


def write_base(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 04-base with [base]: `base_model.run`; packed weights stay packed, in groundup's own layout.

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


def score_base(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 05-scores on the model of [base]."""
    return evaluate_stage.run(recipe, inputs, out, machine, open_model)
