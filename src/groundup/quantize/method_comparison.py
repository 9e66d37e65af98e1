"""The price of bits: one model quantized by several methods, and what each costs and saves."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup import interop
from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import parse_json
from groundup.artifacts.progress import Progress
from groundup.interop.adapters import split_adapter
from groundup.plan.checks.stage_support import INTEGER_METHODS, METHOD_BITS, METHOD_KNOBS, check_quantization
from groundup.quantize.calibration_text import CalibrationText, calibration_text, existing_files
from groundup.quantize.gguf_calibration import UNWEIGHTED
from groundup.quantize.model_scores import score_against_float
from groundup.quantize.price_table import worse_than_rounding
from groundup.quantize.process_measurement import measure_process
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.quantizer import METHODS, bits_per_weight, quantize_model
from groundup.quantize.standalone import describe_text, open_float_model, quantization_settings, run_inputs
from groundup.quantize.weight_check import check_weights
from groundup.recipe.evaluate_config import TaskConfig
from groundup.recipe.output_config import SIZE, QuantizeConfig
from groundup.tokenizer import Tokenizer

COMPARED_BITS = (4, 8)
GGUF_FILE = "model.gguf"


def candidate_names(methods: str | None, bits: Sequence[int] = COMPARED_BITS, size: str | None = None) -> list[str]:
    """Names of the models to compare, such as "gptq-4", "gptq-90MB" and "gguf-q4_0".

    `methods`: methods and names with commas between them; default: all methods. A method stands for itself at each of `bits`
    that it has, and, if it has bits by layer, under `size`; "gguf" for all quantized types of GGUF. Raises UserError for an
    unknown name.

    >>> candidate_names("rtn,gptq-8")
    ['rtn-4', 'rtn-8', 'gptq-8']
    """
    expanded = {method: [f"{method}-{width}" for width in bits if _has_bits(method, width)] for method in METHODS}
    for method in INTEGER_METHODS if size else ():
        expanded[method].append(f"{method}-{size}")
    expanded |= {"gguf": [f"gguf-{kind}" for kind in _gguf_types()]}
    known = {name for names in expanded.values() for name in names}
    known |= {f"{method}-{width}" for method in METHODS for width in range(2, 9) if _has_bits(method, width)}
    found: list[str] = []
    for name in (methods or ",".join(METHODS)).replace(" ", "").split(","):
        method, _, kind = name.partition("-")
        if name not in known and name not in expanded and not (method in INTEGER_METHODS and SIZE.fullmatch(kind)):
            raise UserError(
                f"--methods {name}: unknown",
                hint=f"one or more of {', '.join(expanded)}, rtn-4, gptq-90MB, gguf-q8_0 ...",
            )
        found += [each for each in expanded.get(name, [name]) if each not in found]
    return found


def compare_methods(
    model_path: Path | str,
    names: Sequence[str],
    *,
    device: str = "auto",
    calibration: Sequence[Path | str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    adapter: Path | str | None = None,
    verify: bool = True,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    **knobs: Any,
) -> dict[str, Any]:
    """The model at `model_path` in floating point and quantized in each way of `names` (`candidate_names`).

    Arguments as for `quantize_folder`; `on_row` is called with each row as it is ready. No model is kept.

    Returns {"model", "text_origin", "calibration_tokens", "eval_tokens", "rows"}. A row has name, bytes (of the weights),
    scores as of `score_against_float`, and, where they can be measured, resident_bytes and tokens_per_second; quantized
    ones bits_per_weight and seconds.
    """
    progress, files = progress or Progress(), existing_files(calibration)
    section = QuantizeConfig(**knobs)
    model_path, adapter = split_adapter(model_path, adapter)
    source = interop.resolve_model_path(Path(model_path))
    model, tokenizer = open_float_model(source, device, adapter, verify)
    check_weights(model)
    sections = {name: _section(name, section, model) for name in names}
    inputs = {} if files else run_inputs(source, tokenizer, verify)
    material = calibration_text(model, tokenizer, inputs, section, seed, files)
    for line in describe_text(material):
        progress.log(line)
    tasks = _recipe_tasks(source)

    def scores_of(models: dict[str, nn.Module]) -> dict[str, dict[str, Any]]:
        return score_against_float(model, models, tokenizer, material, seed, progress, tasks)

    float_row = {
        "name": "float", "bytes": _model_bytes(model), **scores_of({})["float"],
        **measure_process(source, device, torch.get_num_threads(), adapter),
    }  # fmt: skip
    on_row(float_row)
    rows = [float_row]
    for name, wanted in sections.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            if wanted is None:
                try:
                    quantized, described = _write_gguf(name, model, tokenizer, material, Path(folder), progress)
                except UserError as error:
                    progress.log(f"{name} is left out: {error.message}")
                    continue
            else:
                quantized, described = _write_packed(
                    name, wanted, model, tokenizer, material, Path(folder), progress, seed
                )
            row = {
                "name": name,
                "seconds": time.process_time() - start,
                **described,
                **scores_of({name: quantized})[name],
            }
            del quantized
            written = Path(folder) if wanted is not None else Path(folder, GGUF_FILE)
            row |= measure_process(written, device, torch.get_num_threads())
        on_row(row)
        rows.append(row)
    for row in rows:
        method, _, kind = row["name"].partition("-")
        nearest = next((each for each in rows if each["name"] == f"rtn-{kind}"), None)
        if nearest is not None and (warning := worse_than_rounding(method, row, nearest)):
            progress.log(f"warning: {warning}")
    return {
        "model": str(model_path),
        "text_origin": material.origin,
        "calibration_tokens": material.windows.numel(),
        "eval_tokens": material.compared.numel(),
        "rows": rows,
    }


def _has_bits(method: str, bits: int) -> bool:
    return METHOD_BITS.get(method, bits) == bits


def _section(name: str, section: QuantizeConfig, model: nn.Module) -> QuantizeConfig | None:
    """The knobs of one name; None of GGUF types. Raises UserError for what the model cannot be quantized to."""
    method, _, kind = name.partition("-")
    if method == "gguf":
        return None
    unread = {knob for knob, methods in METHOD_KNOBS.items() if method not in methods}
    stored = {"bits": int(kind)} if kind.isdigit() else {"bits": None, "size": kind}
    values = section.model_dump(exclude=unread) | {"method": method} | stored
    found = QuantizeConfig(**values)
    check_quantization(found)
    return found


def _write_packed(
    name: str, section: QuantizeConfig, model: nn.Module, tokenizer: Tokenizer, material: CalibrationText,
    folder: Path, progress: Progress, seed: int,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    quantized = copy.deepcopy(model)
    settings = quantization_settings(section, seed)
    progress.log(f"{name}:")
    quantize_model(quantized, settings, material.windows, progress)
    save_quantized_folder(quantized, folder, section.method)
    tokenizer.save(folder)
    return quantized, {"bytes": _model_bytes(quantized), "bits_per_weight": bits_per_weight(quantized)}


def _write_gguf(
    name: str, model: nn.Module, tokenizer: Tokenizer, material: CalibrationText, folder: Path, progress: Progress
) -> tuple[nn.Module, dict[str, Any]]:
    from groundup.interop.gguf import export_gguf, load_gguf, measure_importance

    kind = name.removeprefix("gguf-")
    with progress.task(name, total=1, unit="files") as task:
        importance = None if kind in UNWEIGHTED else measure_importance(model, material.windows)
        path = export_gguf(model, tokenizer, folder / GGUF_FILE, kind, importance=importance)
        weight = next(model.parameters())
        quantized, _ = load_gguf(path, weight.device, weight.dtype)
        task.advance()
    return quantized.eval(), {"bytes": path.stat().st_size}


def _gguf_types() -> list[str]:
    try:
        from groundup.interop.gguf.types.tensor_types import MIXES
    except UserError:  # the package gguf is not installed
        return []
    return list(MIXES)


def _model_bytes(model: nn.Module) -> int:
    """Bytes of the weights as they are stored: shared ones once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.state_dict(keep_vars=True).values())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _recipe_tasks(source: Path) -> tuple[TaskConfig, ...]:
    """The tasks of the recipe whose run contains the model."""
    path = source.parent / "recipe.json"
    if not path.is_file():
        return ()
    recipe = parse_json(path.read_text(encoding="utf-8"), str(path))
    listed = (recipe.get("evaluate") or {}).get("tasks", []) if isinstance(recipe, dict) else []
    return tuple(TaskConfig(**task) for task in listed)
