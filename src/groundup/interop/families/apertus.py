"""Apertus: pre-norm blocks, norms of queries and keys, and xIELU, an activation with two weights.

Source: the configuration and modelling files of transformers 5, models/apertus.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, inverse_map_value, map_value
from groundup.interop.families.llama import BIASES, LLAMA, TENSORS
from groundup.interop.families.llama_variants import PLAIN_ACTIVATIONS
from groundup.interop.families.rope_config import read_rope, write_rope
from groundup.interop.weight_map import TensorMap, map_names
from groundup.model.feed_forward import XIELU
from groundup.recipe import ModelConfig

ACTIVATIONS = {"xielu": "xielu", **PLAIN_ACTIVATIONS}
NAMES = {
    "blocks.*.attention_norm.": "model.layers.*.attention_layernorm.",
    "blocks.*.feed_forward_norm.": "model.layers.*.feedforward_layernorm.",
    "blocks.*.feed_forward.activation.": "model.layers.*.mlp.act_fn.",
}
NAMES |= {native: foreign for native, foreign in TENSORS.items() if native not in NAMES}
CONSTANTS = {"beta": XIELU.beta, "eps": XIELU.eps}
ROPE: Json = {
    "rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


def _read(json: Json) -> Json:
    rope = json.get("rope_scaling") or json.get("rope_parameters") or ROPE
    return {
        **read_rope(json | {"rope_scaling": rope}, default_theta=12e6),
        "norm": "rmsnorm",
        "qk_norm": True,
        "feed_forward": map_value(json, "hidden_act", ACTIVATIONS),
        "attention_bias": map_value(json, "attention_bias", BIASES),
    }


def _write(config: ModelConfig) -> Json:
    rope = write_rope(config)
    # Without a scaling, transformers takes that of the published models.
    parameters = {"rope_type": "default", **(rope.pop("rope_scaling") or {}), "rope_theta": config.rope_theta}
    return rope | {
        "rope_parameters": parameters,
        "hidden_act": inverse_map_value(ACTIVATIONS, config.feed_forward),
        "attention_bias": config.attention_bias != "none",
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    yield from map_names(names, NAMES)
    for i in range(config.num_layers if config.feed_forward == "xielu" else 0):
        for name, value in CONSTANTS.items():
            yield _map_constant(f"model.layers.{i}.mlp.act_fn.{name}", value)


def _map_constant(foreign: str, value: float) -> TensorMap:
    """A stored tensor that is a constant of ours."""

    def check(tensors: list[Tensor]) -> list[Tensor]:
        if not torch.isclose(tensors[0].float(), torch.tensor(value), rtol=1e-2).all():
            raise UserError(f"tensor {foreign} is {tensors[0].item():g}, expected {value:g}")
        return []

    return TensorMap((), (foreign,), check, lambda _: [torch.tensor(value)])


APERTUS = replace(
    LLAMA,
    name="apertus",
    architecture="ApertusForCausalLM",
    defaults={**LLAMA.defaults, "rms_norm_eps": 1e-5, "hidden_act": "xielu"},
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
