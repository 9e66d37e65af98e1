"""Quantization without a recipe: `quantize` for a model in memory, `quantize_folder` for one on disk."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from groundup import interop
from groundup.artifacts.directory import new_folder
from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import MANIFEST_FILE
from groundup.artifacts.progress import Progress
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters import split_adapter
from groundup.interop.classifier_files import copy_classifier
from groundup.interop.model_card import write_card_files
from groundup.interop.model_loading import QUANTIZATION_FILE, as_trained, is_quantized
from groundup.model.serialization import WEIGHTS_FILE
from groundup.plan.checks.stage_support import check_quantization
from groundup.quantize.block_checkpoint import BLOCKS_FOLDER
from groundup.quantize.block_methods import METHOD_SCHEMES, WITHOUT_TEXT
from groundup.quantize.calibration_text import CalibrationText, calibration_text, existing_files
from groundup.quantize.calibration_windows import calibration_length, evenly_spaced_windows
from groundup.quantize.layers.packed_layers import packed_layers
from groundup.quantize.model_scores import score_against_float
from groundup.quantize.price_table import worse_than_rounding
from groundup.quantize.quantization_grid import QuantizationScheme, integer_scheme
from groundup.quantize.quantized_folder import main_scheme, save_quantized_folder
from groundup.quantize.quantizer import LayerQuantizationError, QuantizationSettings, bits_per_weight, quantize_model
from groundup.quantize.weight_check import check_weights
from groundup.recipe.output_config import DEFAULT_BITS, QuantizeConfig
from groundup.stages import STAGE_FOLDERS
from groundup.tokenizer import Tokenizer, TokenShard


def quantize(
    model: nn.Module,
    tokenizer: Tokenizer | None = None,
    calibration_texts: Sequence[str] = (),
    *,
    progress: Progress | None = None,
    **knobs: Any,
) -> list[LayerQuantizationError]:
    """Quantize the linear layers of a model's blocks in place. Returns the output error of each layer.

        model, tokenizer = groundup.open_model("runs/quickstart")
        errors = quantize(model, tokenizer, ["Some text like the training text ..."], bits=4)

    `knobs`: those of [quantize] in a recipe, with the same defaults. Most methods need calibration texts and the
    tokenizer; rtn, nf4 and float8 need neither, and return no errors without them.

    Raises UserError for an unknown knob or value, for weights that are not finite, and when a method gets no text that needs it.
    """
    section = QuantizeConfig(**knobs)
    check_quantization(section)
    check_weights(model)
    windows = None
    if tokenizer is not None and calibration_texts:
        ids = [id for text in calibration_texts for id in tokenizer.encode(text)]
        windows = evenly_spaced_windows(ids, calibration_length(model, len(ids)), section.calibration_tokens)
    return quantize_model(model, quantization_settings(section), windows, progress)


def quantization_settings(section: QuantizeConfig, seed: int = 0) -> QuantizationSettings:
    """The settings of a recipe's section."""
    symmetric = section.method != "awq" if section.symmetric is None else section.symmetric
    scheme = QuantizationScheme(section.bits or DEFAULT_BITS, section.group_size, symmetric)
    options = {
        "damp_percent": section.damp_percent, "act_order": section.act_order, "max_bytes": section.size_bytes,
        "rounding_steps": section.rounding_steps, "seed": seed,
    }  # fmt: skip
    return QuantizationSettings(section.method, METHOD_SCHEMES.get(section.method, scheme), **options)


def quantize_folder(
    model_path: Path | str,
    out: Path | str,
    *,
    device: str = "auto",
    calibration: Sequence[Path | str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    adapter: Path | str | None = None,
    verify: bool = True,
    **knobs: Any,
) -> dict[str, Any]:
    """Quantize the model at `model_path` into the new folder `out`, and compare it with the float model on other text.

    A call that was killed goes on with the block that it was at, and ends with equal bits.

    Args:
        calibration: texts, .jsonl files with `text` or `messages`, or folders of such files; default: the tokens and
            conversations of the run that contains the model, or else text that a decoder writes itself. A part of it is
            only for the comparison.
        seed: of the choice of text, of the samples and of the masks.
        adapter: merged into the weights first, as in `open_model`.
        verify: compare the files of a run with their SHA-256 first.
        knobs: those of [quantize] in a recipe, with the same defaults.

    Returns the summary of `quantization_summary`, and calibration_tokens, text_origin, eval_tokens and held_out: for float, rtn
    and the method, the scores of `score_against_float`. Raises UserError for too little text, for damaged files, for an unknown
    knob or value, for weights that are not finite, and when `out` is not empty. rtn, nf4 and float8
    round without a comparison if there is no text.
    """
    section, progress, files = QuantizeConfig(**knobs), progress or Progress(), existing_files(calibration)
    (model_path, adapter), out = split_adapter(model_path, adapter), Path(out)
    with new_folder(out, resumed=BLOCKS_FOLDER) as partial:
        source = interop.resolve_model_path(model_path)
        model, tokenizer = open_float_model(source, device, adapter, verify)
        tokenizer = tokenizer if adapter else as_trained(source, tokenizer)
        check_quantization(section)
        check_weights(model)
        settings = quantization_settings(section, seed)
        inputs = {} if files else run_inputs(source, tokenizer, verify)
        material = None
        if section.method not in WITHOUT_TEXT or files or inputs:
            material = calibration_text(model, tokenizer, inputs, section, seed, files)
            for line in describe_text(material):
                progress.log(line)
        blocks = partial / BLOCKS_FOLDER  # of a killed call, too
        errors = quantize_model(model, settings, material and material.windows, progress, checkpoint=blocks)
        shutil.rmtree(blocks, ignore_errors=True)
        device_of = next(model.parameters()).device
        save_quantized_folder(model.cpu(), partial, section.method)
        tokenizer.save(partial)
        write_card_files(source, partial)
        copy_classifier(source, partial)
        if material is None:
            progress.log("rounded without text, and not compared with the float model: --calibration FILE gives some")
            return quantization_summary(model, errors, source, partial)
        models: dict[str, nn.Module] = {section.method: model.to(device_of)}
        if section.method != "rtn":
            nearest, _ = open_float_model(source, device, adapter, verify=False)
            quantize_model(nearest, QuantizationSettings("rtn", integer_scheme(settings.scheme)))
            models = {"rtn": nearest, **models}
        float_model, _ = open_float_model(source, device, adapter, verify=False)
        scores = score_against_float(float_model, models, tokenizer, material, seed, progress)
        nearest_scores = {} if section.size else scores.get("rtn", {})
        if warning := worse_than_rounding(section.method, scores[section.method], nearest_scores):
            progress.log(f"warning: {warning}")
    return {
        **quantization_summary(model, errors, source, out),
        "calibration_tokens": {"text": material.text.numel(), "chat": material.chat.numel()},
        "text_origin": material.origin,
        "eval_tokens": material.compared.numel(),
        "held_out": scores,
    }


def open_float_model(
    source: Path, device: str, adapter: Path | str | None, verify: bool
) -> tuple[nn.Module, Tokenizer]:
    """A model to be quantized. Raises UserError for one that is quantized already."""
    if is_quantized(source):
        raise UserError(f"{source}: the weights are quantized already", hint="name the float model it was made from")
    return interop.open_model(source, device, adapter=adapter, verify=verify)


def run_inputs(source: Path, tokenizer: Tokenizer, verify: bool) -> dict[str, Path]:
    """The stage folders with text of the run that contains the model at `source`: `tokens` and `chat`, if they are there.

    Raises UserError for damaged files, and for tokens of another tokenizer.
    """
    folders = {name: source.parent / STAGE_FOLDERS[name] for name in ("tokens", "chat")}
    inputs = {name: folder for name, folder in folders.items() if (folder / MANIFEST_FILE).is_file()}
    for folder in inputs.values() if verify else ():
        check_artifact(folder)
    for split in ("train", "validation") if "tokens" in inputs else ():
        TokenShard(inputs["tokens"] / split).check_tokenizer(tokenizer)
    return inputs


def describe_text(material: CalibrationText) -> Iterator[str]:
    """What calibrates and what is compared, and a warning about text that is too little."""
    yield (
        f"calibration: {material.windows.numel():,} tokens of {TEXT_ORIGINS[material.origin]}; "
        f"{material.compared.numel():,} others for the comparison with the float model"
    )
    if warning := material.warning():
        yield f"warning: {warning}"


TEXT_ORIGINS = {
    "files": "the files given",
    "corpus": "the run's corpus and conversations",
    "conversations": "the run's conversations",
    "samples": "text that the model wrote itself, since there is no other (--calibration FILE gives one)",
}


def quantization_summary(
    model: nn.Module, errors: list[LayerQuantizationError], source: Path, out: Path
) -> dict[str, Any]:
    """Method, scheme, sizes before and after, and mean layer errors of a quantized model folder."""
    layers = packed_layers(model)
    scheme = main_scheme(model)
    before = sum(file.stat().st_size for file in ([source] if source.is_file() else source.glob("*.safetensors")))
    mean_errors = [
        sum(getattr(error, name) for error in errors) / max(1, len(errors)) for name in ("error", "rtn_error")
    ]
    method = json.loads((out / QUANTIZATION_FILE).read_text())["method"]
    return {
        "method": method,
        "bits": scheme.bits,
        "bits_by_layer": len({layer.scheme.bits for layer in layers.values()}) > 1,
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "bits_per_weight": bits_per_weight(model),
        "bytes": {"before": before, "after": (out / WEIGHTS_FILE).stat().st_size},
        "weights": {
            "quantized": sum(layer.in_features * layer.out_features for layer in layers.values()),
            "others": sum(parameter.numel() for parameter in model.parameters()),
        },
        **({"mean_error": mean_errors[0], "mean_rtn_error": mean_errors[1]} if errors else {}),
    }
