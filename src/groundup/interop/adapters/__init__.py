"""Adapters: small updates of a model, stored apart from it, in the folder format of PEFT.

Files, in reading order:

    lora_layer.py         a linear layer with a low-rank update, and merging
    trainable_tokens.py   trained rows of the token embedding and the head
    adapter_folder.py     adapters as PEFT folders
"""

from groundup.interop.adapters.adapter_folder import load_adapter, save_adapter
from groundup.interop.adapters.lora_layer import lora_layers, merge_lora

__all__ = ["load_adapter", "lora_layers", "merge_lora", "save_adapter"]
