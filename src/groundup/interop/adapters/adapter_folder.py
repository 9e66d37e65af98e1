"""LoRA adapters as folders that PEFT can open on the base model.

    adapter_config.json          rank, alpha, target modules
    adapter_model.safetensors    lora_A (r in) and lora_B (out r) of each layer; rows of trained control tokens

Layers have the names of the Hugging Face family that the base model is exported as. If no family maps the model's matrices
one to one, they have our names and only `load_adapter` can open the folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_file
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters.lora_layer import LoRALinear, lora_layers
from groundup.interop.adapters.trainable_tokens import TrainableTokens, add_trainable_tokens, token_matrices
from groundup.interop.families.select_family import select_family
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model.serialization import save_tensors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TOKEN_ROWS_SUFFIX = ".token_adapter.trainable_tokens_delta"
"""PEFT calls it a delta; it is the rows themselves."""


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the adapter of `model`, which must not be merged yet."""
    layers, token_modules = lora_layers(model), trainable_token_modules(model)
    names = huggingface_names(model, [*layers, *token_modules])
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{names[name]}.lora_A.weight"] = layer.lora_a
        tensors[f"{PREFIX}{names[name]}.lora_B.weight"] = layer.lora_b
    for name, module in token_modules.items():
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        tensors[f"{PREFIX}{names[name]}{TOKEN_ROWS_SUFFIX}"] = weight[module.token_indices]
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
    layer = next(iter(layers.values()))
    rank = layer.lora_a.shape[0]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": layer.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted({names[name].rpartition(".")[2] for name in layers}),
        "trainable_token_indices": {
            names[name].rpartition(".")[2]: module.token_indices.tolist() for name, module in token_modules.items()
        }
        or None,
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of adapter_config.json that are read."""

    r: Annotated[int, Field(ge=1, le=1 << 16)]
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)]
    trainable_token_indices: dict[str, list[Annotated[int, Field(ge=0)]]] | None = None


def load_adapter(model: nn.Module, folder: Path, *, verify: bool = True) -> nn.Module:
    """Add the adapter in `folder` to the base model, in place. Raises UserError if it belongs to another model.

    `verify`: compare the files of a run's adapter with their SHA-256 first.
    """
    if verify:
        check_artifact(folder)
    config = read_json_file(AdapterConfig, folder / CONFIG_FILE, hint=f"expected {CONFIG_FILE} and {WEIGHTS_FILE}")
    rank, alpha, token_ids = config.r, config.lora_alpha, config.trainable_token_indices or {}
    file = SafetensorsFolder(folder)
    linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    names = huggingface_names(model, [*linears, *token_matrices(model)])
    expected = {name for name in linears if f"{PREFIX}{names[name]}.lora_A.weight" in file.shapes}
    ids = next(iter(token_ids.values()), [])
    if outside := [row for row in ids if row >= model.config.vocab_size]:  # type: ignore[union-attr,operator]
        raise UserError(
            f"{folder / CONFIG_FILE}: token {outside[0]}, expected ids below {model.config.vocab_size}",  # type: ignore[union-attr]
            hint="use the base model that the adapter was trained on",
        )
    expected_tensors = {f"{PREFIX}{names[name]}.lora_{part}.weight" for name in expected for part in "AB"}
    expected_tensors |= {f"{PREFIX}{names[name]}{TOKEN_ROWS_SUFFIX}" for name in (token_matrices(model) if ids else ())}
    if mismatch := sorted(set(file.shapes) ^ expected_tensors):
        raise UserError(
            f"{folder}: tensor {mismatch[0]} is missing or unexpected for this model",
            hint="use the base model that the adapter was trained on",
        )
    with torch.no_grad():
        for name in sorted(expected):
            layer = LoRALinear(model.get_submodule(name), rank, alpha)  # type: ignore[arg-type]
            for parameter, part in ((layer.lora_a, "A"), (layer.lora_b, "B")):
                tensor = file.read(f"{PREFIX}{names[name]}.lora_{part}.weight")
                if tensor.shape != parameter.shape:
                    raise UserError(
                        f"{folder}: {names[name]}.lora_{part} has shape {list(tensor.shape)}, expected "
                        f"{list(parameter.shape)}",
                        hint="use the base model that the adapter was trained on",
                    )
                parameter.copy_(tensor)
            model.set_submodule(name, layer)
        for name, addition in (add_trainable_tokens(model, ids) if ids else {}).items():
            weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
            addition.delta.copy_(
                file.read(f"{PREFIX}{names[name]}{TOKEN_ROWS_SUFFIX}") - weight[addition.token_indices]
            )
    return model


def trainable_token_modules(model: nn.Module) -> dict[str, TrainableTokens]:
    """The TrainableTokens of each token matrix, by name."""
    return {
        name: module
        for name, table in token_matrices(model).items()
        for module in table.modules()
        if isinstance(module, TrainableTokens)
    }


def huggingface_names(model: nn.Module, modules: list[str]) -> dict[str, str]:
    """The name of each module in the model's Hugging Face family; our names if there is no one-to-one mapping."""
    try:
        config: Any = model.config
        pairs = select_family(config).weight_map(config, [f"{name}.weight" for name in modules])
        names = {pair.native[0]: pair.foreign[0] for pair in pairs if len(pair.native) == len(pair.foreign) == 1}
        return {name: names[f"{name}.weight"].removesuffix(".weight") for name in modules}
    except (UserError, KeyError):
        return {name: name for name in modules}
