"""Gemma 1, 2 and 3 (text) in GGUF: norm weights are stored as factors, not as offsets from 1.

llama.cpp derives the scale of attention and the pattern of local layers from the architecture.

Source: llama.cpp, src/models/{gemma,gemma2,gemma3}.cpp.
"""

from collections.abc import Collection

from groundup.interop.gguf.architectures.gguf_architecture import TENSORS, GGUFArchitecture, GGUFFields, Metadata
from groundup.recipe import ModelConfig

SANDWICH = {
    "blocks.*.attention_post_norm.": "blk.*.post_attention_norm.",
    "blocks.*.feed_forward_post_norm.": "blk.*.post_ffw_norm.",
}
KNOBS: Metadata = {"norm": "zero_centered_rmsnorm", "feed_forward": "geglu_tanh"}
TIED: Metadata = {**KNOBS, "tie_embeddings": True}
LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose attention is scaled by hidden_size / num_heads."""


def _read_gemma(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return {"embedding_scale": knobs["hidden_size"] ** 0.5}


def _read_sandwich(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    is_largest = knobs["num_layers"] == LARGEST[fields.name]
    width = knobs["hidden_size"] // knobs["num_heads"]
    return _read_gemma(fields, tensors, knobs) | {
        "norm_placement": "sandwich",
        "attention_scale": width**-0.5 if is_largest else None,
        "logit_softcap": fields.get("final_logit_softcapping") or None,
    }


def _read_gemma2(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return _read_sandwich(fields, tensors, knobs) | {
        "attention_softcap": fields.get("attn_logit_softcapping", 50.0),
        "logit_softcap": fields.get("final_logit_softcapping", 30.0),
        **read_window(fields, knobs, ("local", "global"), window=4096),
    }


def _write_gemma2(config: ModelConfig) -> Metadata:
    fields: Metadata = {
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "attention.sliding_window": config.sliding_window,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _read_gemma3(fields: GGUFFields, tensors: Collection[str], knobs: Metadata) -> Metadata:
    return _read_sandwich(fields, tensors, knobs) | {
        "qk_norm": True,
        **read_window(fields, knobs, ("local",) * 5 + ("global",)),
        "rope_local_theta": fields.get("rope.freq_base_swa", 10_000.0),
    }


def _write_gemma3(config: ModelConfig) -> Metadata:
    fields: Metadata = {} if config.logit_softcap is None else {"final_logit_softcapping": config.logit_softcap}
    return fields | write_window(config) | write_local_theta(config)


def read_window(fields: GGUFFields, knobs: Metadata, pattern: tuple[str, ...], window: int | None = None) -> Metadata:
    """The window of local layers; `pattern` and `window` are llama.cpp's, which the file may replace."""
    window = fields.get("attention.sliding_window", window)
    given = fields.get_list("attention.sliding_window_pattern")
    if isinstance(given, list):
        pattern = tuple("local" if is_local else "global" for is_local in given)
    elif given:
        pattern = ("local",) * (given - 1) + ("global",)
    if not window:
        return {}
    return {"sliding_window": window, "attention_pattern": pattern}


def write_window(config: ModelConfig) -> Metadata:
    return {"attention.sliding_window": config.sliding_window} if "local" in config.layer_types else {}


def write_local_theta(config: ModelConfig) -> Metadata:
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    return {"rope.freq_base_swa": local} if "local" in config.layer_types else {}


GEMMA = GGUFArchitecture("gemma", ("gemma",), knobs=TIED, read=_read_gemma)
GEMMA2 = GGUFArchitecture(
    "gemma2", ("gemma2",), knobs=TIED, tensors=SANDWICH | TENSORS, read=_read_gemma2, write=_write_gemma2
)
GEMMA3 = GGUFArchitecture(
    "gemma3", ("gemma3_text",), knobs=KNOBS, tensors=SANDWICH | TENSORS, read=_read_gemma3, write=_write_gemma3
)
