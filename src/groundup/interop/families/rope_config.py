"""RoPE settings and layer types in config.json, in the present and the older spelling.

Until 2025: `rope_theta` and `rope_scaling`. Since transformers 5: `rope_parameters`, per layer type if types differ. Both are
read; the older one, which every reader knows, is written.
"""

import math
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json
from groundup.recipe import ModelConfig

KEYS = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}
ROPE_SCALING_FIELDS = {
    "linear": ("factor",),
    "dynamic": ("factor", "original_context_length"),
    "yarn": (
        "factor",
        "original_context_length",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "llama3": ("factor", "original_context_length", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "original_context_length", "attention_factor", "short_factors", "long_factors"),
}


def read_rope(json: Json, default_theta: float = 10_000.0) -> Json:
    """rope_theta and rope_scaling of ModelConfig."""
    rope = dict(json.get("rope_scaling") or json.get("rope_parameters") or {})
    theta = rope.get("rope_theta") or json.get("rope_theta") or default_theta
    original = json.get("original_max_position_embeddings")
    if rope.get("rope_type", rope.get("type")) == "dynamic":  # the file has the length before scaling
        original = json["max_position_embeddings"]
        context_length = {"context_length": int(rope["factor"] * original)} if rope.get("factor") else {}
    else:
        context_length = {}
    if original is not None:  # beside the scaling: it comes first
        rope["original_max_position_embeddings"] = original
    return {"rope_theta": theta, "rope_scaling": _scaling(rope, json["max_position_embeddings"]), **context_length}


def read_partial_rope(json: Json, default_factor: float = 1.0, default_theta: float = 10_000.0) -> Json:
    """`read_rope` for families in which only the first elements of a head rotate: partial_rotary_factor of them."""
    head_dim = json.get("head_dim") or json["hidden_size"] // json["num_attention_heads"]
    json = dict(json)
    factor = json.get("partial_rotary_factor")
    for key in ("rope_scaling", "rope_parameters"):
        if rope := json.get(key):
            factor = rope.get("partial_rotary_factor") or factor
            json[key] = {name: value for name, value in rope.items() if name != "partial_rotary_factor"}
    rotary_dim = int(head_dim * (default_factor if factor is None else factor))
    return read_rope(json, default_theta) | {"rotary_dim": rotary_dim}


def write_partial_rotary(config: ModelConfig) -> float:
    """partial_rotary_factor: of its product with the head's width, readers take the integer part."""
    factor = (config.rotary_dim or config.head_dim) / config.head_dim
    return factor if int(config.head_dim * factor) == config.rotary_dim else math.nextafter(factor, 2.0)


def write_rope(config: ModelConfig) -> Json:
    """rope_theta and rope_scaling of config.json."""
    json: Json = {"rope_theta": config.rope_theta, "rope_scaling": None}
    if scaling := config.rope_scaling:
        rope: Json = {"rope_type": scaling.method}
        rope |= {KEYS[knob]: getattr(scaling, knob) for knob in ROPE_SCALING_FIELDS[scaling.method]}
        original = scaling.original_context_length or config.context_length
        if "original_max_position_embeddings" in rope:
            rope["original_max_position_embeddings"] = original
        if scaling.method == "dynamic":
            json["max_position_embeddings"] = original
        json["rope_scaling"] = {key: value for key, value in rope.items() if value is not None}
    return json


def read_two_ropes(json: Json, theta_key: str, local_key: str, thetas: tuple[float, float]) -> Json:
    """`read_rope` for families whose local layers have their own theta, without scaling."""
    rope: Any = json.get("rope_parameters") or {}
    scaling = json.get("rope_scaling") or {}
    if "type" in scaling and "rope_type" not in scaling:  # transformers does not scale then
        raise UserError(f"rope_scaling = {scaling} has the older key type, expected rope_type")
    full = {**(rope.get("full_attention") or {}), **scaling}
    local = rope.get("sliding_attention") or {}
    if local.get("rope_type", "default") != "default":
        raise UserError(f"rope_type = {local['rope_type']!r} in sliding layers, expected 'default'")
    nested = {"rope_scaling": full, "rope_parameters": None, "original_max_position_embeddings": None}
    return read_rope(json | nested) | {
        "rope_theta": full.get("rope_theta") or json.get(theta_key) or thetas[0],
        "rope_local_theta": local.get("rope_theta") or json.get(local_key) or thetas[1],
    }


def read_layers(types: list[str] | None, window: int | None) -> Json:
    """sliding_window and attention_pattern from a list of layer types; None: all full."""
    kinds = ["local" if kind == "sliding_attention" else "global" for kind in types or ()]
    if unknown := set(types or ()) - {"sliding_attention", "full_attention"}:
        raise UserError(f"layer_types has {sorted(unknown)[0]!r}, expected sliding_attention or full_attention")
    if window is None or "local" not in kinds:
        return {"sliding_window": None, "attention_pattern": ("global",)}
    return {"sliding_window": window, "attention_pattern": tuple(kinds)}


def write_layers(config: ModelConfig) -> list[str]:
    """The layer type of every layer."""
    names = {"local": "sliding_attention", "global": "full_attention", "linear": "linear_attention"}
    return [names[kind] for kind in config.layer_types]


def _scaling(rope: Json, context_length: int) -> Json | None:
    method = rope.get("rope_type") or rope.get("type") or "default"
    if method == "default":
        return None
    if method not in ROPE_SCALING_FIELDS:
        raise UserError(
            f"rope_type = {method!r} is not supported, expected one of default, {', '.join(ROPE_SCALING_FIELDS)}"
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"rope_scaling = {rope}: partial rotation is not supported")
    if method == "longrope" and rope.get("factor") is None:
        original = rope.get("original_max_position_embeddings") or context_length
        rope = rope | {"factor": max(context_length / original, 1.0)}
    if rope.get("factor") is None:
        raise UserError(f"rope_scaling = {rope}: factor is missing")
    knobs = {knob: rope[KEYS[knob]] for knob in ROPE_SCALING_FIELDS[method] if rope.get(KEYS[knob]) is not None}
    if "original_context_length" in ROPE_SCALING_FIELDS[method]:
        knobs.setdefault("original_context_length", context_length)
    return {"method": method, **knobs}
