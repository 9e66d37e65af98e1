"""Granite-MoE: Granite's scales with a mixture of experts, whose matrices are fused in the files.

Source: the configuration and modelling files of transformers 5, models/granitemoe.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.interop.families.family import Json
from groundup.interop.families.llama import TENSORS
from groundup.interop.families.llama_variants import GRANITE
from groundup.interop.families.mixtral import EXPERTS
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig


def _read(json: Json) -> Json:
    moe = {"num_experts": json["num_local_experts"], "experts_per_token": json["num_experts_per_tok"]}
    return GRANITE.read({**json, "mlp_bias": False}) | {"moe": moe}


def _write(config: ModelConfig) -> Json:
    assert config.moe
    moe = {"num_local_experts": config.moe.num_experts, "num_experts_per_tok": config.moe.experts_per_token}
    return GRANITE.write(config) | moe


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    for name in names:
        layer = name.split(".")[1]
        native, foreign = f"blocks.{layer}{EXPERTS}", f"model.layers.{layer}.block_sparse_moe."
        if name == f"{native}gate_proj":
            matrices = (f"{native}gate_proj", f"{native}up_proj")
            yield TensorMap(matrices, (f"{foreign}input_linear.weight",), split_gate_up, join_gate_up)
            yield TensorMap((f"{native}down_proj",), (f"{foreign}output_linear.weight",))
    table = {"blocks.*.feed_forward.router.": "model.layers.*.block_sparse_moe.router.layer."} | TENSORS
    yield from map_names([name for name in names if EXPERTS not in name], table)


def split_gate_up(tensors: list[Tensor]) -> list[Tensor]:
    """Gate and up projections, concatenated along the rows of each expert."""
    return list(tensors[0].chunk(2, dim=1))


def join_gate_up(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.cat(tensors, dim=1)]


GRANITE_MOE = replace(
    GRANITE,
    name="granitemoe",
    architecture="GraniteMoeForCausalLM",
    defaults={**GRANITE.defaults, "num_local_experts": 8, "num_experts_per_tok": 2},
    moe=True,
    read=_read,
    write=_write,
    weight_map=_weight_map,
)
