"""Granite-MoE, with and without shared experts: Granite's scales, and experts whose matrices are fused in the files.

Sources: the configuration and modelling files of transformers 5, models/{granitemoe,granitemoeshared}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import Json
from groundup.interop.families.llama import TENSORS
from groundup.interop.families.llama_variants import GRANITE
from groundup.interop.families.mixtral import EXPERTS
from groundup.interop.weight_map import TensorMap, map_names
from groundup.recipe import ModelConfig

NAMES = {
    "blocks.*.feed_forward.router.": "model.layers.*.block_sparse_moe.router.layer.",
    "blocks.*.feed_forward.shared_experts.down_proj.": "model.layers.*.shared_mlp.output_linear.",
    **TENSORS,
}


def _read(json: Json) -> Json:
    moe = {"num_experts": json["num_local_experts"], "experts_per_token": json["num_experts_per_tok"]}
    return GRANITE.read({**json, "mlp_bias": False}) | {"moe": moe}


def _write(config: ModelConfig) -> Json:
    assert config.moe
    moe = {"num_local_experts": config.moe.num_experts, "num_experts_per_tok": config.moe.experts_per_token}
    return GRANITE.write(config) | moe


def _read_shared(json: Json) -> Json:
    knobs, shared, size = _read(json), json["shared_intermediate_size"], json["intermediate_size"]
    if shared % size:
        raise UserError(f"shared_intermediate_size = {shared}, expected a multiple of intermediate_size = {size}")
    return knobs | {"moe": knobs["moe"] | {"num_shared_experts": shared // size}}


def _write_shared(config: ModelConfig) -> Json:
    assert config.moe
    return _write(config) | {"shared_intermediate_size": config.moe.num_shared_experts * config.moe.intermediate_size}


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    for name in names:
        layer = name.split(".")[1]
        native, foreign = f"blocks.{layer}{EXPERTS}", f"model.layers.{layer}.block_sparse_moe."
        if name == f"{native}gate_proj":
            matrices = (f"{native}gate_proj", f"{native}up_proj")
            yield TensorMap(matrices, (f"{foreign}input_linear.weight",), _split_gate_up, _join_gate_up)
            yield TensorMap((f"{native}down_proj",), (f"{foreign}output_linear.weight",))
        elif name.endswith(".shared_experts.gate_proj.weight"):
            matrices = (name, name.replace("gate_proj", "up_proj"))
            yield TensorMap(
                matrices, (f"model.layers.{layer}.shared_mlp.input_linear.weight",), _split_rows, _join_rows
            )
    fused = (EXPERTS, ".shared_experts.gate_proj", ".shared_experts.up_proj")
    yield from map_names([name for name in names if not any(part in name for part in fused)], NAMES)


def _split_gate_up(tensors: list[Tensor]) -> list[Tensor]:
    """Gate and up projections, concatenated along the rows of each expert."""
    return list(tensors[0].chunk(2, dim=1))


def _split_rows(tensors: list[Tensor]) -> list[Tensor]:
    return list(tensors[0].chunk(2))


def _join_rows(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.cat(tensors)]


def _join_gate_up(tensors: list[Tensor]) -> list[Tensor]:
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
GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    name="granitemoeshared",
    architecture="GraniteMoeSharedForCausalLM",
    defaults={**GRANITE_MOE.defaults, "shared_intermediate_size": 0},
    read=_read_shared,
    write=_write_shared,
)
