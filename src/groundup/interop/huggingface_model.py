"""Hugging Face model folders, import and export: config.json, safetensors and tokenizer files.

Code in a folder is never run; `auto_map` and similar fields are ignored.
"""

import json
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.interop.classifier_files import (
    classifier_fields,
    classifier_tensors,
    find_classifier_family,
    foreign_head,
    head_patterns,
)
from groundup.interop.families import Family, require_family
from groundup.interop.families.select_family import select_family
from groundup.interop.fold_scales import fold_config, fold_scales
from groundup.interop.multimodal_text import TextTensors, is_multimodal, text_fields
from groundup.interop.reward_files import SCORE, has_score, score_fields
from groundup.interop.safetensors_files import (
    MAX_SHARD_BYTES,
    SafetensorsFolder,
    TensorSource,
    cast_floating,
    write_safetensors,
)
from groundup.interop.scaled_weights import is_scaled, scaled_source
from groundup.interop.sentence_transformers_files import read_pooling, write_token_weights
from groundup.interop.tokenizer_export import save_tokenizer
from groundup.interop.unwrapped_names import UnwrappedNames
from groundup.interop.weight_map import build_from_tensors, convert_to_foreign
from groundup.interop.zero_checkpoint import ZeroCheckpoint, is_zero_checkpoint
from groundup.model.classification_head import ClassificationHead
from groundup.model.serialization import resolve_dtype
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_huggingface(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None
) -> nn.Module:
    """The model of a Hugging Face folder, in evaluation mode; in `dtype`, or in the dtype of the files.

    float8 and MXFP4 weights are multiplied by their scales: bfloat16 unless `dtype` is another.

    A folder without safetensors may hold a DeepSpeed ZeRO checkpoint, which is then read.

    Raises UserError for an unknown family (listing the known ones), an unsupported setting, and weights that do not fit the
    configuration: tensor, expected, found.

    >>> model = load_huggingface(Path("SmolLM2-135M"), dtype=torch.bfloat16)
    """
    family, config, source, ignored = open_folder(Path(folder), resolve_dtype(dtype))
    return build_from_tensors(
        config,
        family.weight_map,
        source,
        ignored=(*family.ignored_tensors(config), *ignored),
        device=device,
        dtype=dtype,
    )


def huggingface_model_config(folder: Path) -> ModelConfig:
    """The configuration of the model of a Hugging Face folder. Raises UserError as `load_huggingface` does."""
    return open_folder(Path(folder))[1]


def open_folder(
    folder: Path, dtype: torch.dtype | None = None, unpack: Callable[[TensorSource], TensorSource] | None = None
) -> tuple[Family, ModelConfig, TensorSource, list[str]]:
    """(family, configuration, tensors, names of tensors that the model does not need).

    unpack: presents the tensors of quantized layers as float weights; without it, a folder of quantized weights is refused.
    """
    fields = read_config(folder)
    multimodal = is_multimodal(fields)
    fields = text_fields(fields) if multimodal else fields
    family = _family_of(fields, folder, unpack is not None)
    classifier = classifier_tensors(fields, family, folder / CONFIG_FILE)
    trained = not any(folder.glob("*.safetensors")) and is_zero_checkpoint(folder)
    files: TensorSource = ZeroCheckpoint(folder) if trained else SafetensorsFolder(folder)
    unwrapped: TensorSource = UnwrappedNames(files)
    source: TensorSource = _WithoutPrefix(TextTensors(unwrapped) if multimodal else unwrapped, family.prefix)
    if unpack is not None:
        source = unpack(source)
    elif is_scaled(fields):
        source = scaled_source(source, fields, dtype)
    config, ignored = _adjust_to_tensors(family, family.read_config(fields, folder / CONFIG_FILE), source)
    if classifier is not None:
        config, ignored = config.model_copy(update={"masked_lm_head": False}), [*ignored, *head_patterns(classifier)]
    if has_score(fields, family):
        config, ignored = config.model_copy(update={"tie_embeddings": True}), [*ignored, SCORE]
    if config.architecture == "encoder" and (pooling := read_pooling(folder)):
        config = config.model_copy(update={"pooling": pooling})
    if config.architecture == "encoder_decoder" and (settings := folder / "generation_config.json").is_file():
        names = ("decoder_start_token_id", "forced_bos_token_id")
        found = {name: id for name in names if type(id := read_json_object(settings).get(name)) is int}
        config = config.model_copy(update=found)  # it stands above config.json in transformers
    return family, config, source, ignored


def export_huggingface(
    model: nn.Module,
    tokenizer: Tokenizer | Path | str | None,
    out: Path | str,
    dtype: str | torch.dtype = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    classifier: ClassificationHead | None = None,
    score: Tensor | None = None,
) -> list[Path]:
    """Write a folder for transformers and vLLM. Returns the files written.

    Args:
        tokenizer: a tokenizer or its folder; None: no tokenizer files.
        dtype: of the stored weights: float32, bfloat16 or float16.
        classifier: the head of a classifier, in place of one of tokens; in a form that `find_classifier_family` finds.
        score: the layer (1 D) of a reward model, in place of the head of a decoder.

    Raises UserError if no family can represent the model.

    >>> export_huggingface(model, tokenizer, Path("out"), dtype="bfloat16")
    """
    out, dtype = Path(out), str(dtype).removeprefix("torch.")
    family = check_huggingface(model.config, dtype)  # type: ignore[arg-type]
    config, weights = fold_scales(model)
    head: Iterable[tuple[str, Tensor]] = ()
    extra_fields: dict[str, Any] = {}
    if classifier is not None:
        config = config.model_copy(update={"masked_lm_head": False})
        weights = {name: weight for name, weight in weights.items() if not name.startswith("head.")}
        found = find_classifier_family(config, classifier)
        assert found is not None
        family, tensors = found
        head, extra_fields = foreign_head(classifier, tensors), classifier_fields(classifier, family, tensors)
    if score is not None:
        head, extra_fields = [(SCORE, score)], score_fields(family)
        config = config.model_copy(update={"tie_embeddings": True})  # no head of tokens is stored
        weights = {name: weight for name, weight in weights.items() if not name.startswith("head.")}
    tokenizer = Tokenizer.load(tokenizer) if isinstance(tokenizer, Path | str) else tokenizer
    padding = family.fixed.get("pad_token_id")
    if tokenizer is not None and padding not in (None, tokenizer.pad_id):
        raise UserError(
            f"the tokenizer's padding token has id {tokenizer.pad_id}, expected {padding} in a {family.name} model, "
            "whose positions begin after it"
        )
    out.mkdir(parents=True, exist_ok=True)
    foreign = chain(convert_to_foreign(family.weight_map(config, list(weights)), weights), head)
    files = write_safetensors(((n, cast_floating(t, DTYPES[dtype]).cpu()) for n, t in foreign), out, max_shard_bytes)
    files += write_token_weights(model, tokenizer, out)
    return [*files, *write_config_files(config, tokenizer, out, dtype, extra_fields, family)]


def check_huggingface(config: ModelConfig, dtype: str) -> Family:
    """The family that represents the model. Raises UserError if there is none, or for an unknown dtype."""
    if dtype not in DTYPES:
        raise UserError(
            f"dtype {dtype!r}, expected one of {', '.join(DTYPES)} in a Hugging Face folder",
            hint="use the gguf format for q8_0 and q4_0",
        )
    return select_family(fold_config(config))


def write_config_files(
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    out: Path,
    dtype: str,
    extra_fields: dict[str, Any] | None = None,
    family: Family | None = None,
) -> list[Path]:
    """Write config.json, of `family` or the simplest one, with `extra_fields`, and the tokenizer files; returns the files."""
    # Explicit None: transformers' defaults of a family would be ids of other tokens.
    fields: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    fields |= (family or select_family(config)).write_config(config) | {"torch_dtype": dtype} | (extra_fields or {})
    files = []
    if tokenizer is not None:
        files += save_tokenizer(tokenizer, config, out, fields["model_type"])
        ends = sorted(tokenizer.stop_ids)
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": tokenizer.pad_id,
        }
        if config.architecture == "encoder_decoder":
            ids["decoder_start_token_id"] = config.decoder_start_token_id
            ids["forced_bos_token_id"] = config.forced_bos_token_id
        ids = {key: value for key, value in ids.items() if value is not None}
        fields |= ids
        files.append(_write_json(out / "generation_config.json", ids))
    return [*files, _write_json(out / CONFIG_FILE, fields)]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder. Raises UserError if it is missing or not an object."""
    return read_json_object(Path(folder) / CONFIG_FILE, hint="a Hugging Face folder has config.json and safetensors")


class _WithoutPrefix:
    """A source of a headless model: adds the prefix that tensor names have in the class with a head."""

    def __init__(self, source: TensorSource, prefix: str):
        self.path, self._source = source.path, source
        self._prefix_length = 0 if any(name.startswith(prefix) for name in source.shapes) else len(prefix)
        self.shapes = {prefix[: self._prefix_length] + name: shape for name, shape in source.shapes.items()}

    def read(self, name: str) -> Tensor:
        return self._source.read(name[self._prefix_length :])


def _family_of(fields: dict[str, Any], folder: Path, packed: bool) -> Family:
    name = fields.get("model_type")
    if (quantization := fields.get("quantization_config")) and not packed and not is_scaled(fields):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise UserError(
            f"{folder}: quantized weights ({method}), expected floating point",
            hint="groundup.quantize.open_model opens the supported formats",
        )
    return require_family(name, folder / CONFIG_FILE)


def _adjust_to_tensors(family: Family, config: ModelConfig, source: TensorSource) -> tuple[ModelConfig, list[str]]:
    """The configuration adjusted to the stored tensors, and the names of duplicates among them.

    Files may lack a head (an encoder for embeddings), or contain a tied one as well. A head that differs from the embedding is
    untied, whatever config.json says.
    """
    changes: dict[str, Any] = {}
    if family.masked_head:
        changes["masked_lm_head"] = family.masked_head in source.shapes
    if family.logit_bias:
        changes["head_bias"] = family.logit_bias in source.shapes
    if family.kind == "encoder_decoder" and family.head not in source.shapes:
        config = config.model_copy(update={"tie_embeddings": True})  # as transformers, whatever config.json says
    repeated = []
    if config.tie_embeddings and family.head in source.shapes:
        if _equal(source, family.head, family.embedding):
            repeated = [family.head]
        else:
            changes["tie_embeddings"] = False
    return config.model_copy(update=changes), repeated


def _equal(source: TensorSource, left: str, right: str) -> bool:
    shapes = source.shapes
    return shapes.get(left) == shapes.get(right) and torch.equal(source.read(left), source.read(right))


def _write_json(path: Path, fields: dict[str, Any]) -> Path:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
