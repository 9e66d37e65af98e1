"""Our weights as Megatron-Core's, and back: the same numbers in another order, so nothing is rounded.

Megatron (Shoeybi et al. 2019) holds one matrix where we hold several, so that one product makes them all: queries, keys
and values of each group of heads side by side, and the gate above the up projection. Each rank of the tensor axis has its
part of every one of them. AdamW's moments follow their weights by the same rules.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.recipe import ModelConfig


@dataclass(frozen=True)
class WeightRule:
    """One of Megatron's parameters.

    Attributes:
        ours: the weights that it is made of.
        split: (ours, ranks) -> the part of each rank.
        join: (the parts of all ranks) -> ours.
    """

    sources: tuple[str, ...]
    split: Callable[[list[Tensor], int], list[Tensor]]
    merge: Callable[[list[Tensor]], list[Tensor]]


def build_weight_rules(config: ModelConfig) -> dict[str, WeightRule]:
    """For every parameter of Megatron's model its rule, in the order in which it has them."""
    found = {"embedding.word_embeddings.weight": _sharded("embedding.tokens.weight", 0)}
    if config.position_embedding == "learned":
        found["embedding.position_embeddings.weight"] = _replicated("embedding.positions.weight")
    for layer in range(config.num_layers):
        own, theirs = f"blocks.{layer}", f"decoder.layers.{layer}"
        found |= _norm(config, f"{theirs}.input_layernorm", f"{own}.attention_norm")
        attention, mixing = f"{own}.attention", f"{theirs}.self_attention"
        qkv = [f"{attention}.{part}_proj" for part in "qkv"]
        found[f"{mixing}.linear_proj.weight"] = _sharded(f"{attention}.o_proj.weight", 1)
        if config.attention_bias == "all":
            found[f"{mixing}.linear_proj.bias"] = _replicated(f"{attention}.o_proj.bias")
        found[f"{mixing}.linear_qkv.weight"] = _grouped_heads([f"{name}.weight" for name in qkv], config)
        if config.attention_bias != "none":
            found[f"{mixing}.linear_qkv.bias"] = _grouped_heads([f"{name}.bias" for name in qkv], config)
        if config.qk_norm:
            for part in "qk":
                found |= _norm(config, f"{mixing}.{part}_layernorm", f"{attention}.{part}_norm")
        found |= _norm(config, f"{theirs}.pre_mlp_layernorm", f"{own}.feed_forward_norm")
        first = [f"{own}.feed_forward.{part}_proj" for part in (("gate", "up") if config.gated else ("up",))]
        kinds = ("weight", "bias") if config.feed_forward_bias else ("weight",)
        for kind in kinds:
            found[f"{theirs}.mlp.linear_fc1.{kind}"] = _interleaved([f"{name}.{kind}" for name in first])
        down = f"{own}.feed_forward.down_proj"
        found[f"{theirs}.mlp.linear_fc2.weight"] = _sharded(f"{down}.weight", 1)
        if config.feed_forward_bias:
            found[f"{theirs}.mlp.linear_fc2.bias"] = _replicated(f"{down}.bias")
    found |= _norm(config, "decoder.final_layernorm", "final_norm")
    if not config.tie_embeddings:
        found["output_layer.weight"] = _sharded("head.weight", 0)
    return found


def to_megatron(
    weights: Mapping[str, Tensor], config: ModelConfig, rank: int, world_size: int
) -> dict[str, Tensor]:
    """What rank `rank` of the tensor axis has of our whole weights."""
    return {
        name: rule.split([weights[own] for own in rule.sources], world_size)[rank].contiguous()
        for name, rule in build_weight_rules(config).items()
    }


def from_megatron(parts: list[Mapping[str, Tensor]], config: ModelConfig) -> dict[str, Tensor]:
    """Our whole weights, of what all ranks of the tensor axis have."""
    whole = {}
    for name, rule in build_weight_rules(config).items():
        whole |= dict(zip(rule.sources, rule.merge([part[name] for part in parts]), strict=True))
    return whole


def _norm(config: ModelConfig, theirs: str, ours: str) -> dict[str, WeightRule]:
    kinds = ("weight", "bias") if config.norm == "layernorm" else ("weight",)
    return {f"{theirs}.{kind}": _replicated(f"{ours}.{kind}") for kind in kinds}


def _replicated(ours: str) -> WeightRule:
    """Every rank has all of it."""
    return WeightRule((ours,), lambda weights, ranks: weights * ranks, lambda parts: parts[:1])


def _sharded(ours: str, dimension: int) -> WeightRule:
    """Rank after rank along one dimension."""
    return WeightRule(
        (ours,),
        lambda weights, ranks: list(weights[0].chunk(ranks, dimension)),
        lambda parts: [torch.cat(parts, dimension)],
    )


def _interleaved(ours: list[str]) -> WeightRule:
    """A rank's rows of each, one below the other."""

    def split(weights: list[Tensor], ranks: int) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(*(weight.chunk(ranks) for weight in weights), strict=True)]

    def join(parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(*(part.chunk(len(ours)) for part in parts), strict=True)]

    return WeightRule(tuple(ours), split, join)


def _grouped_heads(ours: list[str], config: ModelConfig) -> WeightRule:
    """Groups of heads: the queries that share a key, the key, the value."""
    sizes = [config.num_heads // config.num_kv_heads * config.head_dim, config.head_dim, config.head_dim]

    def split(weights: list[Tensor], ranks: int) -> list[Tensor]:
        groups = [weight.unflatten(0, (config.num_kv_heads, -1)) for weight in weights]
        return [part.flatten(0, 1) for part in torch.cat(groups, 1).chunk(ranks)]

    def join(parts: list[Tensor]) -> list[Tensor]:
        groups = torch.cat(parts).unflatten(0, (config.num_kv_heads, -1))
        return [part.flatten(0, 1) for part in groups.split(sizes, 1)]

    return WeightRule(tuple(ours), split, join)
