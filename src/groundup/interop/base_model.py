"""The model of [base]: its configuration, its tokenizer, its identity, and stage 04-base with it in groundup's own format."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import MANIFEST_FILE
from groundup.data.hash_cache import cached_hashes
from groundup.interop.adapters import adapter_tokenizer, split_adapter
from groundup.interop.added_tokens import add_tokens, extend_vocabulary, extended_config
from groundup.interop.classifier_files import copy_classifier
from groundup.interop.families import require_family
from groundup.interop.huggingface_model import huggingface_model_config, read_config
from groundup.interop.model_card import write_card_files
from groundup.interop.model_loading import NATIVE_CONFIG, is_quantized, open_model, resolve_model_path
from groundup.model import load_config, save_model
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe import ModelConfig, Recipe, RecipeView
from groundup.recipe.base_model_config import BaseModelConfig
from groundup.stages import STAGE_FOLDERS
from groundup.tokenizer import Tokenizer, load_pretrained_tokenizer

TUNING_TABLES = ("finetune", "preference", "reinforcement")

ADDED_TOKENS_FILE = "new_tokens.json"
"""In 04-base: ids of the tokens of base.add_tokens."""
IDENTITY_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".pt", ".gguf")


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Write the model of [base], its weights as they are or unpacked, with its tokenizer.

    Returns the metrics: parameters, parameters_by_part, model (name of its folder or file), format, dtype, context_length.
    """
    path, adapter = base_model_path(_section(recipe)), base_adapter(_section(recipe))
    with machine.progress.task("reading the model", total=1, unit="models") as task:
        model, tokenizer, added = open_base(_section(recipe))
        save_model(model, out)
        if added:
            (out / ADDED_TOKENS_FILE).write_text(json.dumps(added) + "\n", encoding="utf-8")
        tokenizer.save(out)
        write_card_files(path, out)
        copy_classifier(path, out)
        task.advance()
    config: ModelConfig = model.config  # type: ignore[assignment]
    adapted = {} if adapter is None else {"model": _name(adapter), "format": f"adapter of a {_format(path)}"}
    return (
        describe(config, path)
        | adapted
        | {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        }
    )


def open_base(section: BaseModelConfig, dtype: torch.dtype | None = None) -> tuple[nn.Module, Tokenizer, list[int]]:
    """The model of [base] on the CPU and its tokenizer, with the tokens of base.add_tokens, and their ids."""
    model, tokenizer = open_model(base_model_path(section), device="cpu", dtype=dtype, adapter=base_adapter(section))
    if not section.add_tokens:
        return model, tokenizer, []
    num_known = tokenizer.vocab_size
    ids = add_tokens(tokenizer, section.add_tokens)
    return extend_vocabulary(model, ids, num_known), tokenizer, ids


def read_added_tokens(folder: Path) -> list[int]:
    """The ids of the tokens that [base] added to the model in `folder`, whose rows are new."""
    path = folder / ADDED_TOKENS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def describe(config: ModelConfig, path: Path) -> dict[str, Any]:
    """The metrics of stage 04-base that follow from the model's configuration and place."""
    return {
        "parameters_by_part": vars(count_parameters(config)) | {},
        "model": _name(path),
        "format": _format(path),
        "context_length": config.context_length,
    }


def write_tokenizer(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Stage 02-tokenizer with [base]: the tokenizer of the model. Returns the metrics vocab_size and pretrained."""
    path = base_model_path(_section(recipe))
    tokenizer = read_base_tokenizer(path)
    if (adapter := base_adapter(_section(recipe))) is not None:
        tokenizer = adapter_tokenizer(adapter, tokenizer)
    add_tokens(tokenizer, _section(recipe).add_tokens)
    tokenizer.save(out)
    return {"vocab_size": tokenizer.vocab_size, "pretrained": _name(path)}


def identity(section: BaseModelConfig, machine: Machine) -> dict[str, Any]:
    """SHA-256 by name of the files that define the model. Raises UserError if there is no model at base.model."""
    return hash_model(section.model, machine)


def hash_model(model: str, machine: Machine, knob: str = "base.model") -> dict[str, Any]:
    """The same of the model that a knob names."""
    section = BaseModelConfig(model=model)
    path, adapter = base_model_path(section, knob), base_adapter(section)
    named = {"model.gguf": path} if path.is_file() else _defining_files(path)
    if adapter is not None:
        named |= {f"adapter/{name}": file for name, file in _defining_files(adapter).items()}
    return dict(zip(named, cached_hashes(list(named.values()), machine), strict=True))


def base_model_path(section: BaseModelConfig, knob: str = "base.model") -> Path:
    """The model folder or file that `section` names; of an adapter, that of its base. Raises UserError if there is none."""
    try:
        path, adapter = split_adapter(Path(section.model).expanduser(), None)
        path = resolve_model_path(path)
        if adapter is not None and is_quantized(path):
            raise UserError(
                f"{adapter}: an adapter over packed weights", hint="groundup export MODEL --adapter DIR first"
            )
        return path
    except UserError as error:
        raise UserError(f"{knob}: {error.message}", hint=error.hint) from None


def base_adapter(section: BaseModelConfig) -> Path | None:
    """The adapter that base.model names, which is merged into its base; None: it names a model."""
    return split_adapter(Path(section.model).expanduser(), None)[1]


def check_packed_base(recipe: Recipe) -> None:
    """Raises UserError for tables that need the weights of [base] in floating point, where they are packed.

    Fine-tuning trains adapters over them, and its result is in floating point.
    """
    if recipe.base is None or not is_quantized(path := base_model_path(recipe.base)):
        return
    tuning = [table for table in TUNING_TABLES if getattr(recipe, table, None) is not None]
    is_chat = recipe.finetune is not None and recipe.finetune.task == "generation"
    refused = {
        "[train]": recipe.train is not None,
        "base.add_tokens": bool(recipe.base.add_tokens),
        f"[{tuning[0]}]" if tuning else "": bool(tuning) and not is_chat,
        "finetune.method = full": is_chat and recipe.finetune is not None and recipe.finetune.method == "full",
        "[quantize]": recipe.quantize is not None and not tuning,
        "[export]": recipe.export is not None and not tuning,
    }
    for what, is_refused in refused.items():
        if is_refused:
            raise UserError(
                f"base.model: {path}: packed weights with {what}, which needs them in floating point",
                hint="[finetune] with conversations and method = qlora trains over packed weights, and its result is in floating "
                "point; groundup export MODEL --out DIR unpacks a model",
            )


def read_base_config(section: BaseModelConfig) -> ModelConfig:
    """The configuration of the model of [base], without its weights. Raises UserError as `open_model` does."""
    config = _read_config(path := base_model_path(section))
    if not section.add_tokens:
        return config
    return extended_config(config, add_tokens(read_base_tokenizer(path), section.add_tokens))


def _read_config(path: Path) -> ModelConfig:
    if path.suffix == ".gguf":
        from groundup.interop.gguf.gguf_import import read_gguf  # optional dependency

        return read_gguf(path)[0]
    if (path / NATIVE_CONFIG).is_file():
        return load_config(path)
    if is_quantized(path):  # whose tensors have other names and shapes
        fields = read_config(path)
        return require_family(fields.get("model_type"), path).read_config(fields, path)
    return huggingface_model_config(path)


def read_base_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the model at `path`, without its weights."""
    if path.suffix == ".gguf":
        from groundup.interop.gguf.gguf_import import read_gguf  # optional dependency

        return read_gguf(path)[1]
    return load_pretrained_tokenizer(path)


def _section(recipe: RecipeView) -> BaseModelConfig:
    assert recipe.base is not None
    return recipe.base


def _name(path: Path) -> str:
    """Name of the folder or file; of a stage, with that of its run."""
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.name in STAGE_FOLDERS.values() else path.name


def _format(path: Path) -> str:
    if path.is_file():
        return "GGUF file"
    return "groundup folder" if (path / NATIVE_CONFIG).is_file() else "Hugging Face folder"


def _defining_files(folder: Path) -> dict[str, Path]:
    files = sorted(file for file in folder.rglob("*") if _defines_model(file, folder))
    return {file.relative_to(folder).as_posix(): file for file in files}


def _defines_model(file: Path, folder: Path) -> bool:
    """Not a manifest, which tells how the model was made, nor a hidden file, nor checkpoints and examples beside it."""
    parts = file.relative_to(folder).parts
    is_hidden = any(part.startswith(".") for part in parts)
    fits = file.suffix in IDENTITY_SUFFIXES and file.name != MANIFEST_FILE
    return file.is_file() and not is_hidden and fits and (len(parts) == 1 or file.suffix == ".pt")
