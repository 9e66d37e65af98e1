"""The additions as a folder of their own: small, and in the layout that PEFT opens over the base model.

    adapter_config.json          rank, alpha, which layers
    adapter_model.safetensors    lora_A (r in) and lora_B (out r) of each layer; whole rows of control tokens

Layers have the names of the Hugging Face family that the base model is exported as. Where no family holds the
model with its matrices one to one, they keep our names, and only we can open the folder.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.finetune.lora import LoRALinear, lora_layers, replace_module
from groundup.finetune.trainable_tokens import TrainableTokens, add_trainable_tokens, token_matrices
from groundup.interop.families.select_family import select_family
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model.serialization import save_tensors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TOKEN_ROWS_SUFFIX = ".token_adapter.trainable_tokens_delta"
"""PEFT calls it a delta; it is the rows themselves."""


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the additions of `model`, which are not merged yet."""
    layers, rows = lora_layers(model), trainable_token_modules(model)
    names = huggingface_names(model, [*layers, *rows])
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{names[name]}.lora_A.weight"] = layer.lora_a
        tensors[f"{PREFIX}{names[name]}.lora_B.weight"] = layer.lora_b
    for name, addition in rows.items():
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        tensors[f"{PREFIX}{names[name]}{TOKEN_ROWS_SUFFIX}"] = weight[addition.token_indices]
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE
    )
    first = next(iter(layers.values()))
    rank = first.lora_a.shape[0]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted({names[name].rpartition(".")[2] for name in layers}),
        "trainable_token_indices": {
            names[name].rpartition(".")[2]: addition.token_indices.tolist() for name, addition in rows.items()
        }
        or None,
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Put the additions of `folder` onto the base model `model`, in place.

    Raises UserError when they are those of another model.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        rank, alpha, token_ids = (
            config["r"],
            config["lora_alpha"],
            config.get("trainable_token_indices") or {},
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: not an adapter ({error!r})", hint=f"{CONFIG_FILE} and {WEIGHTS_FILE} make one"
        ) from None
    file = SafetensorsFolder(folder)
    linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    names = huggingface_names(model, [*linears, *token_matrices(model)])
    expected = {name for name in linears if f"{PREFIX}{names[name]}.lora_A.weight" in file.shapes}
    ids = next(iter(token_ids.values()), [])
    wanted = {f"{PREFIX}{names[name]}.lora_{part}.weight" for name in expected for part in "AB"}
    wanted |= {f"{PREFIX}{names[name]}{TOKEN_ROWS_SUFFIX}" for name in (token_matrices(model) if ids else ())}
    if strange := sorted(set(file.shapes) ^ wanted):
        raise UserError(
            f"{folder}: tensor {strange[0]} is not what the model's adapter holds",
            hint="an adapter belongs to the base model that it was trained on",
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
                        hint="an adapter belongs to the base model that it was trained on",
                    )
                parameter.copy_(tensor)
            replace_module(model, name, layer)
        for name, addition in (add_trainable_tokens(model, ids) if ids else {}).items():
            weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
            addition.delta.copy_(
                file.read(f"{PREFIX}{names[name]}{TOKEN_ROWS_SUFFIX}") - weight[addition.token_indices]
            )
    return model


def trainable_token_modules(model: nn.Module) -> dict[str, TrainableTokens]:
    """The tables with additions to their rows, by name."""
    found = {}
    for name, table in token_matrices(model).items():
        for module in table.modules():
            if isinstance(module, TrainableTokens):
                found[name] = module
    return found


def huggingface_names(model: nn.Module, modules: list[str]) -> dict[str, str]:
    """Each module's name in the Hugging Face family of the model; our own names where none fits one to
    one.
    """
    try:
        config: Any = model.config
        pairs = select_family(config).weight_map(config, [f"{name}.weight" for name in modules])
        found = {
            pair.native[0]: pair.foreign[0] for pair in pairs if len(pair.native) == len(pair.foreign) == 1
        }
        return {name: found[f"{name}.weight"].removesuffix(".weight") for name in modules}
    except (UserError, KeyError):
        return {name: name for name in modules}
