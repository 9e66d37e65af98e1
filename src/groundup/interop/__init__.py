"""6. Interop: import and export of Hugging Face folders and GGUF files, with equal logits.

Files, in reading order:

    mapped_safetensors.py  one safetensors file, in memory as far as it is in use
    pickled_weights.py     the command that converts pickles
    safetensors_files.py   safetensors folders, with and without an index
    scaled_weights.py      float8 and MXFP4 weights with scales, read as floating point
    zero_checkpoint.py     weights of DeepSpeed ZeRO checkpoints
    unwrapped_names.py     tensor names without the prefixes of torch.compile, data parallel training and peft
    multimodal_text.py     the text part of multimodal folders
    weight_map.py          maps between native and foreign tensors; models from foreign tensors
    row_order.py           orders of rows in foreign projections: fused, and of neighbouring RoPE pairs
    families/              Hugging Face model families
    sentence_transformers_files.py  weights of tokens in a text embedding, for sentence-transformers
    fold_scales.py         scale factors folded into weights
    classifier_files.py    labels and heads of classifiers, ours and those of Hugging Face folders
    tokenizer_export.py    tokenizer files that transformers reads with equal ids
    reward_files.py        linear layers of reward models, ours and those of Hugging Face folders
    huggingface_model.py   Hugging Face folders, import and export
    sampling_defaults.py   recommended sampling, kept from import to export
    model_card.py          name and licence of a model, kept from import to export
    gguf/                  GGUF files, import and export
    model_export.py        export by format name
    export_support.py      whether a format can represent a recipe's model
    model_loading.py       models by path
    export_check.py        logits and ids of a model and of its export
    adapters/              LoRA and trained tokens: layers, PEFT folders, merging
    model_merging.py       one model from several: means, task arithmetic, TIES
    added_tokens.py        tokens added to the vocabulary of a model
    base_model.py          the model of [base], and its stage
    family_table.py        what each family can be used for

Deliberately absent: code that comes with a model, pickles, downloads (paths only), and families with modules that `model`
lacks: they are refused by name. Quantized weights are unpacked; `quantize` keeps them packed.

The names below are imported on first use: a plan checks [export] without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.interop.adapters import load_adapter as load_adapter
    from groundup.interop.adapters import merge_lora as merge_lora
    from groundup.interop.adapters import save_adapter as save_adapter
    from groundup.interop.huggingface_model import export_huggingface as export_huggingface
    from groundup.interop.huggingface_model import load_huggingface as load_huggingface
    from groundup.interop.model_export import EXPORT_FORMATS as EXPORT_FORMATS
    from groundup.interop.model_export import export as export
    from groundup.interop.model_loading import open_model as open_model
    from groundup.interop.model_loading import resolve_device as resolve_device
    from groundup.interop.model_loading import resolve_model_path as resolve_model_path

_LAZY_IMPORTS = {
    "EXPORT_FORMATS": "model_export",
    "export": "model_export",
    "export_huggingface": "huggingface_model",
    "load_adapter": "adapters",
    "load_huggingface": "huggingface_model",
    "merge_lora": "adapters",
    "open_model": "model_loading",
    "resolve_device": "model_loading",
    "resolve_model_path": "model_loading",
    "save_adapter": "adapters",
}

__all__ = [
    "EXPORT_FORMATS",
    "export",
    "export_huggingface",
    "load_adapter",
    "load_huggingface",
    "merge_lora",
    "open_model",
    "resolve_device",
    "resolve_model_path",
    "save_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY_IMPORTS[name]}"), name)
