"""nanochat: norms without weights, also of queries, keys and embeddings; squared ReLU; soft-capped logits.

Its rotation turns the other way, which is ours with the halves of each head exchanged, and comes before the norm of queries
and keys, which is the same where the norm has no weight.

Source: the configuration and modelling files of transformers 5, models/nanochat.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json, inverse_map_value, map_value
from groundup.interop.families.llama import BIASES, LLAMA, TENSORS
from groundup.interop.families.llama_variants import PLAIN_ACTIVATIONS
from groundup.interop.families.rope_config import read_rope, write_rope
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import RopeScalingConfig

LAYER = "blocks.*.feed_forward."
FOREIGN_LAYER = "model.layers.*.mlp."
FEED_FORWARD = {f"{LAYER}up_proj.": f"{FOREIGN_LAYER}fc1.", f"{LAYER}down_proj.": f"{FOREIGN_LAYER}fc2."}


def _read(json: Json) -> Json:
    rope = read_rope(json)
    if (scaling := rope["rope_scaling"]) and RopeScalingConfig(**scaling).method not in ("linear", "llama3"):
        raise UserError(
            f"rope_type = {scaling['method']!r} in a nanochat model, expected default, linear or llama3: "
            "the norm after the rotation would undo its factor on queries and keys"
        )
    return rope | {
        "norm": "unweighted_rmsnorm",
        "embedding_norm": True,
        "keep_first_norm": True,
        "qk_norm": True,
        "feed_forward": map_value(json, "hidden_act", PLAIN_ACTIVATIONS),
        "attention_bias": map_value(json, "attention_bias", BIASES),
        "logit_softcap": json["final_logit_softcapping"],
    }


def _write(config: ModelConfig) -> Json:
    return write_rope(config) | {
        "hidden_act": inverse_map_value(PLAIN_ACTIVATIONS, config.feed_forward),
        "attention_bias": config.attention_bias != "none",
        "final_logit_softcapping": config.logit_softcap,
    }


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    def exchange_halves(tensors: list[Tensor]) -> list[Tensor]:
        half = config.head_dim // 2
        return [tensors[0].unflatten(0, (-1, 2, half)).flip(1).reshape(tensors[0].shape)]

    for tensor_map in map_names(names, FEED_FORWARD | TENSORS):
        rotated = ".q_proj." in tensor_map.native[0] or ".k_proj." in tensor_map.native[0]
        yield replace(tensor_map, to_native=exchange_halves, to_foreign=exchange_halves) if rotated else tensor_map


NANOCHAT = replace(
    LLAMA,
    name="nanochat",
    architecture="NanoChatForCausalLM",
    defaults={**LLAMA.defaults, "hidden_act": "relu2", "final_logit_softcapping": 15.0},
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
