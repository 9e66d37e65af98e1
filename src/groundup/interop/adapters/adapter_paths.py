"""Adapters by path: folders of PEFT, runs and stage folders; and models that are opened together with one."""

import copy
import re
import warnings
from pathlib import Path

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.adapters.adapter_config import ADAPTER_CONFIG, read_adapter_config
from groundup.interop.adapters.adapter_loading import load_adapter
from groundup.interop.adapters.base_fingerprint import BASE_MODEL_FILE
from groundup.interop.adapters.foreign_updates import replace_weight
from groundup.interop.adapters.lora_layer import lora_experts, lora_layers
from groundup.interop.adapters.trainable_tokens import merge_trainable_tokens, token_matrices
from groundup.model.head import unpack_tables
from groundup.stages import MODEL_STAGES, STAGE_FOLDERS
from groundup.tokenizer import Tokenizer, load_pretrained_tokenizer
from groundup.tokenizer.tokenizer import TOKENIZER_FILE

ADAPTER_FOLDER = "adapter"
"""Folder of the adapter in a stage's folder."""


def resolve_adapter_path(path: Path | str) -> Path:
    """The adapter folder at `path`: itself, that of a stage folder, or the last one of a run. Raises UserError without one."""
    path = Path(path)
    stages = [path / STAGE_FOLDERS[stage] for stage in reversed(MODEL_STAGES) if stage in STAGE_FOLDERS]
    for folder in (path, path / ADAPTER_FOLDER, *(stage / ADAPTER_FOLDER for stage in stages)):
        if (folder / ADAPTER_CONFIG).is_file():
            return folder
    raise UserError(
        f"{path}: no adapter, expected a folder with {ADAPTER_CONFIG}, or a run or stage that was trained with method = lora",
        hint="a folder that peft_model.save_pretrained(FOLDER) wrote",
    )


def split_adapter(path: Path | str, adapter: Path | str | None) -> tuple[Path, Path | None]:
    """(path of a model, path of an adapter). A `path` that is an adapter folder stands for its base model with it.

    Raises UserError if the base that the adapter names is not on this machine.
    """
    path = Path(path)
    if adapter is not None or not (path / ADAPTER_CONFIG).is_file() or _is_model(path):
        if adapter is None:
            return path, None
        adapter = resolve_adapter_path(adapter)
        _warn_of_base(path, adapter)
        return path, adapter
    name = read_adapter_config(path).base
    inside_run = path.resolve().parent.parent / STAGE_FOLDERS["base"]
    candidates = [] if name is None else [Path(name), path / name]
    for candidate in (*candidates, inside_run):
        if candidate.exists():
            return candidate, path
    raise UserError(
        f"{path}: an adapter of {name or 'a base model that it does not name'}, which is not here",
        hint=f"give the path of its base model, and --adapter {path}",
    )


def _warn_of_base(path: Path, adapter: Path) -> None:
    """Warn of a PEFT adapter that names another base: without a fingerprint, one of the same shape opens without an error."""
    if (adapter / BASE_MODEL_FILE).is_file() or (name := read_adapter_config(adapter).base) is None:
        return
    trained_on = re.sub(r"[^a-z0-9]", "", Path(name).name.lower())
    if trained_on not in re.sub(r"[^a-z0-9]", "", path.resolve().name.lower()):
        warnings.warn(
            f"{adapter} was trained on {name}, by its {ADAPTER_CONFIG}; whether {path} is that model cannot be checked",
            stacklevel=3,
        )


def adapter_tokenizer(adapter: Path, base: Tokenizer) -> Tokenizer:
    """The tokenizer in the adapter folder, with the chat template that it was trained with; `base` if there is none."""
    folder = resolve_adapter_path(adapter)
    return load_pretrained_tokenizer(folder) if (folder / TOKENIZER_FILE).is_file() else base


def _is_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("model.json", "config.json"))


def add_adapter(model: nn.Module, adapter: Path | str | None, *, verify: bool = True) -> nn.Module:
    """`model` with the adapter, for inference, in place: merged where the weights are in floating point; None: as it is."""
    if adapter is None:
        return model
    load_adapter(model, resolve_adapter_path(adapter), verify=verify)
    return merge_adapter(model)


def merge_adapter(model: nn.Module) -> nn.Module:
    """Merge the adapter into the weights that are in floating point, in place; beside packed ones it stays."""
    for name, layer in lora_layers(model).items():
        has_place = layer.lora_bias is None or layer.base.bias is not None
        if type(layer.base) is nn.Linear and has_place:
            layer.merge()
            model.set_submodule(name, layer.base)
    for name, experts in lora_experts(model).items():
        experts.merge()
        model.set_submodule(name, experts.base)
    return merge_trainable_tokens(model).requires_grad_(True).eval()


def with_adapter(model: nn.Module, adapter: Path, *, verify: bool = True) -> nn.Module:
    """Another model with the tensors of `model` and an adapter of its own, for several adapters on one base.

    Linear layers are shared, as they are; changed rows of the embedding and whole matrices are copies.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    unpack_tables(copied)
    for name, table in token_matrices(copied).items():  # another parameter on the same memory: merging rows sets it
        replace_weight(copied, f"{name}.weight", table.weight.detach())  # type: ignore[operator,union-attr]
    load_adapter(copied, resolve_adapter_path(adapter), verify=verify)
    return merge_trainable_tokens(copied).eval()
