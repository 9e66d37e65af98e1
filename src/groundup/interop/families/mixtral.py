"""Mixtral: Llama with a mixture of experts, and the tensor map of such families.

Source: the configuration and modelling files of transformers 5, models/mixtral; the files store each expert separately
(conversion_mapping.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from groundup.interop.families.family import Family, Json
from groundup.interop.families.llama import BUFFERS, DEFAULTS, KEYS, TENSORS, read_decoder, write_decoder
from groundup.interop.families.rope_config import read_layers, read_rope
from groundup.interop.weight_map import TensorMap, map_names, map_stacked
from groundup.recipe import ModelConfig

EXPERTS = ".feed_forward.experts."
MATRICES = {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}
MIXTRAL_PART = "block_sparse_moe"
MIXTRAL_MATRICES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def _read_mixtral(json: Json) -> Json:
    return read_decoder(json) | {
        **read_rope(json, default_theta=1e6),
        **read_layers(["sliding_attention"], json.get("sliding_window")),
        "moe": {"num_experts": json["num_local_experts"], "experts_per_token": json["num_experts_per_tok"]},
    }


def _write_mixtral(config: ModelConfig) -> Json:
    assert config.moe
    return write_decoder(config) | {
        "sliding_window": config.sliding_window,
        "num_local_experts": config.moe.num_experts,
        "num_experts_per_tok": config.moe.experts_per_token,
    }


def experts_map(
    part: str = "mlp", matrices: Mapping[str, str] = MATRICES, table: Mapping[str, str] | None = None
) -> Callable[[ModelConfig, Sequence[str]], Iterable[TensorMap]]:
    """The `weight_map` of a family whose files hold each expert separately, below `part` of a layer.

    Args:
        matrices: names of an expert's three matrices.
        table: names of parts other than Llama's, by prefix.
    """
    return partial(_map_experts, part=part, matrices=matrices, table=table or {})


def _map_experts(
    config: ModelConfig, names: Sequence[str], part: str, matrices: Mapping[str, str], table: Mapping[str, str]
) -> Iterator[TensorMap]:
    assert config.moe
    for name in names:
        if EXPERTS in name:
            layer, matrix = name.split(".")[1], name.rsplit(".", 1)[1]
            prefix = f"model.layers.{layer}.{part}.experts"
            experts = range(config.moe.num_experts)
            yield map_stacked(name, [f"{prefix}.{expert}.{matrices[matrix]}.weight" for expert in experts])
    others = {"blocks.*.feed_forward.router.": f"model.layers.*.{part}.gate.", **TENSORS}
    others = {native: foreign for native, foreign in others.items() if native not in table}
    yield from map_names([name for name in names if EXPERTS not in name], {**table, **others})


MIXTRAL = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    keys=KEYS,
    defaults={**DEFAULTS, "rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2},
    moe=True,
    read=_read_mixtral,
    write=_write_mixtral,
    weight_map=experts_map(MIXTRAL_PART, MIXTRAL_MATRICES),
    ignored=BUFFERS,
)
