"""The text part of multimodal folders: its fields of config.json and its tensors. Towers and projectors are left out.

RoPE with several axes (Qwen2-VL) has the same position on every axis in texts, and so is ordinary RoPE.
"""

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import shorten
from groundup.interop.safetensors_files import TensorSource

Json = dict[str, Any]

QWEN_VL: Json = {"rms_norm_eps": 1e-5, "max_window_layers": 80}
WRAPPERS: dict[str, tuple[str, Json]] = {
    "gemma3": (
        "gemma3_text",
        {
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131_072,
        },
    ),
    "mistral3": ("mistral", {}),
    "llava": (
        "llama",
        {
            "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "max_position_embeddings": 2048,
        },
    ),
    "llava_onevision": ("qwen2", {}),
    "internvl": ("qwen2", {}),
    "aya_vision": ("cohere2", {}),
    "idefics3": ("llama", {}),
    "smolvlm": ("llama", {}),
    "qwen2_vl": ("qwen2", QWEN_VL),
    "qwen2_5_vl": ("qwen2", QWEN_VL),
    "qwen3_vl": ("qwen3", {"rope_theta": 500_000.0}),
    "qwen3_5": ("qwen3_5_text", {}),
    "qwen3_5_moe": ("qwen3_5_moe_text", {}),
}  # fmt: skip
"""`model_type` of a multimodal config.json: that of its text where it names none, and values that it may leave out."""

TEXT_TYPES = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
TEXT_PREFIXES = (
    "language_model.model.",
    "model.language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "language_model.",
)
"""Starts of the names of text tensors, the first that occurs; else those of `model.` are text."""


def is_multimodal(fields: Json) -> bool:
    """Whether a config.json describes a known model for text and other media."""
    kind = fields.get("model_type")
    return isinstance(kind, str) and kind in WRAPPERS


def text_fields(fields: Json) -> Json:
    """The config.json of the text part. Whether the head is tied is decided by the stored tensors."""
    default, values = WRAPPERS[fields["model_type"]]
    if not isinstance(fields.get("text_config") or {}, dict):
        raise UserError(f"text_config = {shorten(fields['text_config'])}, expected an object in config.json")
    own = fields.get("text_config") or {key: value for key, value in fields.items() if not key.endswith("_config")}
    text = values | {key: value for key, value in own.items() if key != "model_type"}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(rope := text.get(key), dict) and "mrope" in (rope.get("rope_type"), rope.get("type")):
            text[key] = {name: rope[name] for name in ("rope_theta",) if name in rope}
    kind = (fields.get("text_config") or {}).get("model_type") or default
    quantization = {key: fields[key] for key in ("quantization_config",) if key in fields}
    return text | quantization | {"model_type": TEXT_TYPES.get(kind, kind), "tie_word_embeddings": True}


class TextTensors:
    """The tensors of the text part, by the names that they have in a folder of text alone. Warns of what is left out."""

    def __init__(self, source: TensorSource):
        self.path, self._source = source.path, source
        names = list(source.shapes)
        prefix = next((prefix for prefix in TEXT_PREFIXES if any(n.startswith(prefix) for n in names)), "model.")
        self._names = {"model." + n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
        head = next((n for n in ("lm_head.weight", "language_model.lm_head.weight") if n in source.shapes), None)
        self._names = {ours: n for ours, n in self._names.items() if n != head} | (
            {"lm_head.weight": head} if head else {}
        )
        self.shapes = {ours: source.shapes[name] for ours, name in self._names.items()}
        parts = sorted({_part(name) for name in names} - {_part(name) for name in self._names.values()})
        if parts:
            warnings.warn(f"{Path(self.path)}: only the text is read; left out: {', '.join(parts)}", stacklevel=2)

    def read(self, name: str) -> Tensor:
        return self._source.read(self._names[name])


def _part(name: str) -> str:
    """The module of a tensor: the first component of its name, without `model`."""
    return name.removeprefix("model.").split(".")[0]
