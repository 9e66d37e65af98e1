"""Export of the model at a path: written, opened again and compared with its source before it gets its name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from groundup import interop
from groundup.artifacts.directory import new_folder
from groundup.artifacts.errors import UserError
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters import adapter_tokenizer, load_adapter, merge_adapter, split_adapter
from groundup.interop.export_check import check_token_ids, largest_difference, sample_outputs
from groundup.interop.model_card import write_card_files
from groundup.interop.model_export import own_dtype
from groundup.interop.model_loading import as_trained, is_quantized
from groundup.interop.reward_files import is_reward_model
from groundup.interop.tokenizer_export import keep_max_length
from groundup.quantize.formats import FORMATS
from groundup.quantize.formats.bitsandbytes_folder import export_nf4
from groundup.quantize.formats.huggingface_folder import export_huggingface_quantized
from groundup.quantize.gguf_calibration import gguf_importance
from groundup.quantize.layers.nf4_linear import NF4Linear
from groundup.quantize.layers.packed_layers import packed_layers
from groundup.quantize.model_loader import load_quantized_model
from groundup.quantize.quantizer import dequantize_model
from groundup.quantize.standalone import run_inputs
from groundup.tokenizer import Tokenizer

NF4 = "bitsandbytes"
FLOATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelExport:
    """What `export_model` wrote.

    Attributes:
        files: in the folder.
        dtype: of the weights, or of those that are not quantized.
        max_logit_difference: the largest difference of a logit between the source and the export, opened again, in float32.
        notes: what a user should know, such as weights that were rounded twice.
    """

    files: list[Path]
    dtype: str
    max_logit_difference: float
    notes: list[str] = field(default_factory=list)


def export_model(
    path: Path | str,
    out: Path | str,
    *,
    format: str,
    dtype: str | None = None,
    adapter: Path | str | None = None,
    verify: bool = True,
    calibration: Sequence[Path | str] = (),
) -> ModelExport:
    """Write the model at `path` to the folder `out` in another format, open it again and compare.

    huggingface, gguf and bitsandbytes (NF4) accept any model (a quantized one is dequantized); gptq, awq and
    compressed-tensors need a quantized one, and no adapter. `dtype`: of floating-point weights; None: that of the model, but
    float16 in place of float32 beside quantized weights, as engines have no fast kernels for it. `adapter` and `verify` as in
    `open_model`.
    `calibration`: text for the types of gguf that are rounded by the inputs of layers, as in `quantize_folder`.

    Raises UserError for a format that cannot represent the model, when `out` is not empty, and when the export gives other token
    ids or logits that are not finite.

    >>> export_model("runs/quickstart", "out", format="gguf").max_logit_difference
    """
    (path, adapter), out = split_adapter(path, adapter), Path(out)
    if format not in (known := (*interop.EXPORT_FORMATS, *FORMATS)):
        raise UserError(f"format {format!r}, expected one of {', '.join(known)}")
    if format in FORMATS and dtype not in (None, *FLOATS):
        raise UserError(
            f"dtype {dtype!r}, expected one of {', '.join(FLOATS)} beside the quantized weights of the {format} format"
        )
    source = interop.resolve_model_path(path)
    quantized = is_quantized(source)
    packed = format in FORMATS and format != NF4
    if packed and (adapter is not None or not quantized):
        _refuse_packing(source, format, adapter)
    if verify and path.is_dir() and quantized:
        check_artifact(path)
    with new_folder(out) as partial:
        model, tokenizer = (
            load_quantized_model(source)
            if quantized
            else interop.open_model(source, "cpu", _exact_dtype(source, dtype), verify=verify)
        )
        tokenizer = tokenizer if adapter else as_trained(source, tokenizer)
        dtype, notes = dtype or _default_dtype(model, format), []
        if packed:
            files = export_huggingface_quantized(model, tokenizer, partial, format=format, dtype=dtype)
            files += write_card_files(source, partial)
            if format in ("gptq", "awq") and getattr(model.config, "moe", None):
                notes.append(
                    f"transformers 5 reads no experts in {format} format (it fills them with random numbers), but does in "
                    "compressed-tensors"
                )
        else:
            rounded = {
                name: layer.packed_weight()
                for name, layer in packed_layers(model).items()
                if isinstance(layer, NF4Linear)
            }
            if quantized and (format == NF4 or dtype not in FLOATS) and not (format == NF4 and rounded):
                notes.append(_rounded_twice(source, NF4 if format == NF4 else dtype))
            if adapter is not None:  # compared with the packed base that it was trained on, then merged
                load_adapter(model, adapter, verify=verify)
                tokenizer = adapter_tokenizer(adapter, tokenizer)
            model = merge_adapter(dequantize_model(model))
            model = model.float() if quantized else model  # unpacked layers are float32, the others perhaps not
            importance = None
            if format == "gguf":
                inputs = {} if calibration or dtype in FLOATS else run_inputs(source, tokenizer, verify)
                importance, said = gguf_importance(
                    model, tokenizer, inputs, dtype, files=[Path(p) for p in calibration]
                )
                notes += [said] if said else []
            if format == NF4:
                files = [*export_nf4(model, tokenizer, partial, dtype, rounded), *write_card_files(source, partial)]
            else:
                files = interop.export(
                    model, tokenizer, partial, format=format, dtype=dtype, source=source, importance=importance
                )
        if (partial / "tokenizer_config.json").is_file():
            keep_max_length(source, partial)
        expected = sample_outputs(model, has_score=is_reward_model(source))
        del model  # one model in memory at a time
        difference = _check(partial, tokenizer, expected, dtype)
    return ModelExport([out / file.relative_to(partial) for file in dict.fromkeys(files)], dtype, difference, notes)


def _exact_dtype(source: Path, dtype: str | None) -> str | None:
    """float32 for a .gguf file, whose packed values bfloat16 would round, unless that is what is written."""
    return "float32" if source.suffix == ".gguf" and dtype not in (None, "bfloat16") else None


def _default_dtype(model: nn.Module, format: str) -> str:
    own = own_dtype(model)
    if format in FORMATS and own == torch.float32:
        own = torch.float16
    return str(own).removeprefix("torch.")


def _check(folder: Path, tokenizer: Tokenizer, expected: dict[str, torch.Tensor], dtype: str) -> float:
    """The largest difference of a logit. Raises UserError for other token ids, and for logits that are not finite."""
    path = interop.resolve_model_path(folder)
    try:
        model, exported = (
            load_quantized_model(path)
            if is_quantized(path)
            else interop.open_model(path, "cpu", "float32", verify=False)
        )
    except UserError as error:
        raise UserError(f"the export in {dtype} does not open again: {error.message}", hint="--dtype float32") from None
    check_token_ids(tokenizer, exported, str(folder))
    if (
        difference := largest_difference(expected, sample_outputs(model, has_score=is_reward_model(path)))
    ) == torch.inf:
        raise UserError(f"the export in {dtype} gives logits that are not finite", hint="--dtype bfloat16 or float32")
    return difference


def _rounded_twice(source: Path, dtype: str) -> str:
    floats = [path for path in sorted(source.parent.glob("0*")) if source.name.startswith("09-") and path.is_dir()]
    better = f"export {floats[-2]}" if len(floats) > 1 else "export the model that it was quantized from"
    return f"the weights are quantized already, and {dtype} rounds them a second time: {better} instead"


def _refuse_packing(source: Path, format: str, adapter: Path | None) -> None:
    if adapter is not None:
        raise UserError(
            f"format {format} with an adapter: the packed weights would have to be packed again",
            hint="groundup quantize MODEL --adapter DIR --out OUT, then export OUT",
        )
    raise UserError(
        f"{source}: the weights are not quantized, which format {format} needs",
        hint="groundup quantize MODEL --out DIR first; in a run, name its 09-quantized folder",
    )
