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
class Rule:
    """One of Megatron's parameters.

    Attributes:
        ours: the weights that it is made of.
        split: (ours, ranks) -> the part of each rank.
        join: (the parts of all ranks) -> ours.
    """

    ours: tuple[str, ...]
    split: Callable[[list[Tensor], int], list[Tensor]]
    join: Callable[[list[Tensor]], list[Tensor]]


def rules(config: ModelConfig) -> dict[str, Rule]:
    """For every parameter of Megatron's model its rule, in the order in which it has them."""
    found = {"embedding.word_embeddings.weight": _cut("embedding.tokens.weight", 0)}
    if config.positions == "learned":
        found["embedding.position_embeddings.weight"] = _same("embedding.positions.weight")
    for layer in range(config.num_layers):
        own, theirs = f"blocks.{layer}", f"decoder.layers.{layer}"
        found |= _norm(config, f"{theirs}.input_layernorm", f"{own}.attention_norm")
        attention, mixing = f"{own}.attention", f"{theirs}.self_attention"
        qkv = [f"{attention}.{part}_proj" for part in "qkv"]
        found[f"{mixing}.linear_proj.weight"] = _cut(f"{attention}.o_proj.weight", 1)
        if config.attention_bias == "all":
            found[f"{mixing}.linear_proj.bias"] = _same(f"{attention}.o_proj.bias")
        found[f"{mixing}.linear_qkv.weight"] = _heads([f"{name}.weight" for name in qkv], config)
        if config.attention_bias != "none":
            found[f"{mixing}.linear_qkv.bias"] = _heads([f"{name}.bias" for name in qkv], config)
        if config.qk_norm:
            for part in "qk":
                found |= _norm(config, f"{mixing}.{part}_layernorm", f"{attention}.{part}_norm")
        found |= _norm(config, f"{theirs}.pre_mlp_layernorm", f"{own}.feed_forward_norm")
        first = [f"{own}.feed_forward.{part}_proj" for part in (("gate", "up") if config.gated else ("up",))]
        kinds = ("weight", "bias") if config.feed_forward_bias else ("weight",)
        for kind in kinds:
            found[f"{theirs}.mlp.linear_fc1.{kind}"] = _stacked([f"{name}.{kind}" for name in first])
        down = f"{own}.feed_forward.down_proj"
        found[f"{theirs}.mlp.linear_fc2.weight"] = _cut(f"{down}.weight", 1)
        if config.feed_forward_bias:
            found[f"{theirs}.mlp.linear_fc2.bias"] = _same(f"{down}.bias")
    found |= _norm(config, "decoder.final_layernorm", "final_norm")
    if not config.tie_embeddings:
        found["output_layer.weight"] = _cut("head.weight", 0)
    return found


def to_megatron(
    weights: Mapping[str, Tensor], config: ModelConfig, rank: int, ranks: int
) -> dict[str, Tensor]:
    """What rank `rank` of the tensor axis has of our whole weights."""
    return {
        name: rule.split([weights[own] for own in rule.ours], ranks)[rank].contiguous()
        for name, rule in rules(config).items()
    }


def from_megatron(parts: list[Mapping[str, Tensor]], config: ModelConfig) -> dict[str, Tensor]:
    """Our whole weights, of what all ranks of the tensor axis have."""
    whole = {}
    for name, rule in rules(config).items():
        whole |= dict(zip(rule.ours, rule.join([part[name] for part in parts]), strict=True))
    return whole


def _norm(config: ModelConfig, theirs: str, ours: str) -> dict[str, Rule]:
    kinds = ("weight", "bias") if config.norm == "layernorm" else ("weight",)
    return {f"{theirs}.{kind}": _same(f"{ours}.{kind}") for kind in kinds}


def _same(ours: str) -> Rule:
    """Every rank has all of it."""
    return Rule((ours,), lambda weights, ranks: weights * ranks, lambda parts: parts[:1])


def _cut(ours: str, dimension: int) -> Rule:
    """Rank after rank along one dimension."""
    return Rule(
        (ours,),
        lambda weights, ranks: list(weights[0].chunk(ranks, dimension)),
        lambda parts: [torch.cat(parts, dimension)],
    )


def _stacked(ours: list[str]) -> Rule:
    """A rank's rows of each, one below the other."""

    def split(weights: list[Tensor], ranks: int) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(*(weight.chunk(ranks) for weight in weights), strict=True)]

    def join(parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(*(part.chunk(len(ours)) for part in parts), strict=True)]

    return Rule(tuple(ours), split, join)


def _heads(ours: list[str], config: ModelConfig) -> Rule:
    """Groups of heads: the queries that share a key, the key, the value."""
    sizes = [config.num_heads // config.num_kv_heads * config.head_dim, config.head_dim, config.head_dim]

    def split(weights: list[Tensor], ranks: int) -> list[Tensor]:
        groups = [weight.unflatten(0, (config.num_kv_heads, -1)) for weight in weights]
        return [part.flatten(0, 1) for part in torch.cat(groups, 1).chunk(ranks)]

    def join(parts: list[Tensor]) -> list[Tensor]:
        groups = torch.cat(parts).unflatten(0, (config.num_kv_heads, -1))
        return [part.flatten(0, 1) for part in groups.split(sizes, 1)]

    return Rule(tuple(ours), split, join)
