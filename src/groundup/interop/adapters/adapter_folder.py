"""LoRA adapters as folders of PEFT, both ways.

    adapter_config.json          ranks, scales, target modules, trained tokens
    adapter_model.safetensors    lora_A (r in) and lora_B (out r) of each layer; rows of trained control tokens
    base_model.json              fingerprint of the base model; groundup's own, PEFT does not read it

Modules have the names of the Hugging Face family of the base model. If no family maps the model's matrices, they have our
names and only `load_adapter` can open the folder.
"""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.interop.adapters.adapter_config import ADAPTER_CONFIG
from groundup.interop.adapters.base_fingerprint import write_base_model
from groundup.interop.adapters.foreign_updates import ForeignLayout, LowRankUpdate, candidate_families
from groundup.interop.adapters.lora_layer import lora_experts, lora_layers
from groundup.interop.adapters.trainable_tokens import TrainableTokens, token_matrices
from groundup.interop.families import Family
from groundup.model.serialization import save_tensors

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TOKEN_ROWS_SUFFIX = ".token_adapter.trainable_tokens_delta"
"""PEFT calls it a delta; it is the rows themselves."""
TASK_TYPES = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": None}


def save_adapter(model: nn.Module, folder: Path, *, base: str | None = None, family: Family | None = None) -> None:
    """Write the adapter of `model`, which must not be merged yet.

    Args:
        base: name or path of the base model, for those who open the adapter.
        family: whose names and layout the adapter gets; default: the simplest that represents the model.

    Raises UserError for a model without LoRA layers.
    """
    layers, experts, rows = lora_layers(model), lora_experts(model), trainable_token_modules(model)
    if not layers and not experts:
        raise UserError("the model has no LoRA layers, so there is no adapter to save", hint="apply_lora(model, ...)")
    layout, updates = _foreign_updates(model, family)
    settings = next(iter({**layers, **experts}.values())).settings
    tensors: dict[str, Tensor] = {}
    ranks, alphas = {}, {}
    for name, update in updates.items():
        module = name.removesuffix(".weight")
        rank = update.a.shape[0]
        tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = update.a, update.b
        if update.bias is not None:
            tensors[f"{PREFIX}{module}.lora_B.bias"] = update.bias
        if update.magnitude is not None:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = update.magnitude
        if rank != settings.rank:  # of fused matrices; alpha keeps the scale
            ranks[module] = rank
            alphas[module] = settings.scale * (math.sqrt(rank) if settings.rank_stabilized else rank)
    modules = {name: _module_name(layout, f"{name}.weight") for name in rows}
    for name, module in rows.items():
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        tensors[f"{PREFIX}{modules[name]}{TOKEN_ROWS_SUFFIX}"] = weight[module.token_indices]
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS
    )
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[model.config.architecture],  # type: ignore[index,union-attr]
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilized,
        "use_dora": settings.dora,
        "lora_bias": settings.bias,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": _target_modules([name.removesuffix(".weight") for name in updates], layout),
        "trainable_token_indices": {
            modules[name].rpartition(".")[2]: module.token_indices.tolist() for name, module in rows.items()
        }
        or None,
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    write_base_model(model, folder, base)


def _foreign_updates(model: nn.Module, family: Family | None) -> tuple[ForeignLayout, dict[str, LowRankUpdate]]:
    """The layout of `family`, else of the first family that can hold the updates, else ours; and the updates in it."""
    updates = {}
    for name, layer in lora_layers(model).items():
        updates[f"{name}.weight"] = LowRankUpdate(layer.lora_a, layer.lora_b, layer.lora_bias, layer.magnitude)
    for name, experts in lora_experts(model).items():
        for matrix, a in experts.lora_a.items():
            updates[f"{name}.{matrix}"] = LowRankUpdate(a, experts.lora_b[matrix])
    families = candidate_families(model.config) if family is None else [family]
    for each in families:
        try:
            layout = ForeignLayout(model, each)
            return layout, layout.to_foreign(updates)
        except (UserError, KeyError):
            continue
    layout = ForeignLayout(model, None)
    experts = {name: update for name, update in updates.items() if update.a.ndim == 3}
    done = layout.to_foreign({name: update for name, update in updates.items() if name not in experts})
    for name, update in experts.items():  # experts have no tensor of their own in our layout
        done |= {f"{name}.{e}.weight": LowRankUpdate(update.a[e], update.b[e]) for e in range(len(update.a))}
    return layout, done


def _module_name(layout: ForeignLayout, native: str) -> str:
    return layout.by_native[native].foreign[0].removesuffix(".weight")


def _target_modules(modules: list[str], layout: ForeignLayout) -> list[str]:
    """The last parts of their names, if no other module has them; else whole names."""
    ends = {name.rpartition(".")[2] for name in modules}
    others = {name.removesuffix(".weight") for name in layout.maps if name.endswith(".weight")} - set(modules)
    if any(name.rpartition(".")[2] in ends for name in others):
        return sorted(modules)
    return sorted(ends)


def trainable_token_modules(model: nn.Module) -> dict[str, TrainableTokens]:
    """The TrainableTokens of each token matrix, by name."""
    return {
        name: module
        for name, table in token_matrices(model).items()
        for module in table.modules()
        if isinstance(module, TrainableTokens)
    }
