"""Adapters: small updates of a model, stored apart from it, in the folder format of PEFT.

Files, in reading order:

    lora_layer.py         linear layers and experts with a low-rank update, and merging
    trainable_tokens.py   trained rows of the token embedding and the head
    foreign_updates.py    updates in the names and layout of a Hugging Face family
    base_fingerprint.py   which base model an adapter belongs to
    adapter_config.py     adapter_config.json
    adapter_folder.py     writing an adapter
    adapter_loading.py    opening an adapter on its base model
    adapter_paths.py      adapters by path, and models that are opened with one
    adapter_models.py     several adapters on one base in one batch

Deliberately absent: adapters that are not LoRA (prompts, IA3, AdaLoRA ...), and variants of LoRA that change the base's weights
in ways that cannot be repeated: they are refused by key and value.
"""

from groundup.interop.adapters.adapter_folder import save_adapter
from groundup.interop.adapters.adapter_loading import load_adapter
from groundup.interop.adapters.adapter_models import AdapterModels
from groundup.interop.adapters.adapter_paths import (
    adapter_tokenizer,
    add_adapter,
    merge_adapter,
    resolve_adapter_path,
    split_adapter,
    with_adapter,
)
from groundup.interop.adapters.lora_layer import adapter_disabled, lora_layers, merge_lora, unmerge_lora

__all__ = [
    "AdapterModels",
    "adapter_disabled",
    "adapter_tokenizer",
    "add_adapter",
    "load_adapter",
    "lora_layers",
    "merge_adapter",
    "merge_lora",
    "resolve_adapter_path",
    "save_adapter",
    "split_adapter",
    "unmerge_lora",
    "with_adapter",
]
