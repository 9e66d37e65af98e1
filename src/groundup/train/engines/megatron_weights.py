"""Weight conversion between our model and Megatron-Core's, in both directions, without rounding.

Megatron (Shoeybi et al. 2019) fuses matrices: query, key and value of each head group, and gate above up projection. Each
tensor parallel rank has a shard of every matrix, each pipeline rank some layers, each expert parallel rank some experts.
AdamW's moments are converted by the same rules.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groundup.recipe import ModelConfig
from groundup.recipe.model_config import MoEConfig


@dataclass(frozen=True)
class WeightRule:
    """The conversion of one of Megatron's parameters.

    Attributes:
        sources: our weights that it is made of; `name[2]`: of the weight with all experts, the third expert's matrix.
        split: (our weights, world size) -> the shard of each tensor parallel rank.
        merge: (the shards of all ranks) -> our weights.
    """

    sources: tuple[str, ...]
    split: Callable[[list[Tensor], int], list[Tensor]]
    merge: Callable[[list[Tensor]], list[Tensor]]


def build_weight_rules(config: ModelConfig) -> dict[str, WeightRule]:
    """A rule for every parameter of Megatron's model, in its order."""
    rules = {"embedding.word_embeddings.weight": _sharded("embedding.tokens.weight", 0)}
    if config.position_embedding == "learned":
        rules["embedding.position_embeddings.weight"] = _replicated("embedding.positions.weight")
    for layer in range(config.num_layers):
        source, target = f"blocks.{layer}", f"decoder.layers.{layer}"
        rules |= _norm(config, f"{target}.input_layernorm", f"{source}.attention_norm")
        attention, target_attention = f"{source}.attention", f"{target}.self_attention"
        qkv = [f"{attention}.{part}_proj" for part in "qkv"]
        rules[f"{target_attention}.linear_proj.weight"] = _sharded(f"{attention}.o_proj.weight", 1)
        if config.attention_bias == "all":
            rules[f"{target_attention}.linear_proj.bias"] = _replicated(f"{attention}.o_proj.bias")
        rules[f"{target_attention}.linear_qkv.weight"] = _grouped_heads([f"{name}.weight" for name in qkv], config)
        if config.attention_bias != "none":
            rules[f"{target_attention}.linear_qkv.bias"] = _grouped_heads([f"{name}.bias" for name in qkv], config)
        if config.qk_norm:
            for part in "qk":
                rules |= _norm(config, f"{target_attention}.{part}_layernorm", f"{attention}.{part}_norm")
        rules |= _norm(config, f"{target}.pre_mlp_layernorm", f"{source}.feed_forward_norm")
        if config.moe is not None and not config.moe.is_dense(layer):
            rules |= _experts(config.moe, f"{target}.mlp", f"{source}.feed_forward")
        else:
            rules |= _feed_forward(config, f"{target}.mlp", f"{source}.feed_forward")
    rules |= _norm(config, "decoder.final_layernorm", "final_norm")
    if not config.tie_embeddings:
        rules["output_layer.weight"] = _sharded("head.weight", 0)
    return rules


def to_megatron(weights: Mapping[str, Tensor], config: ModelConfig, rank: int, world_size: int) -> dict[str, Tensor]:
    """The parameters of tensor parallel rank `rank`, from our full weights."""
    return {
        name: rule.split([read_source(weights, source) for source in rule.sources], world_size)[rank].contiguous()
        for name, rule in build_weight_rules(config).items()
    }


def from_megatron(parts: list[Mapping[str, Tensor]], config: ModelConfig) -> dict[str, Tensor]:
    """Our full weights, from the parameters of all tensor parallel ranks."""
    rules = build_weight_rules(config).items()
    merged = ((rule.sources, rule.merge([part[name] for part in parts])) for name, rule in rules)
    return dict(stack_experts((pair for pairs in merged for pair in zip(*pairs, strict=True)), config))


def read_source(weights: Mapping[str, Tensor], source: str) -> Tensor:
    """The weight, or expert's matrix, that is named in a rule."""
    name, expert = split_source(source)
    return weights[name] if expert is None else weights[name][expert]


def split_source(source: str) -> tuple[str, int | None]:
    """(name of our weight, number of the expert) of a source in a rule."""
    name, bracket, expert = source.rstrip("]").partition("[")
    return name, int(expert) if bracket else None


def stack_experts(tensors: Iterable[tuple[str, Tensor]], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(our name, weight) from (source, tensor): matrices of experts, in order, are stacked when the last one is there."""
    matrices: dict[str, list[Tensor]] = {}
    for source, tensor in tensors:
        name, expert = split_source(source)
        if expert is None or config.moe is None:
            yield name, tensor
            continue
        matrices.setdefault(name, []).append(tensor)
        if len(matrices[name]) == config.moe.num_experts:
            yield name, torch.stack(matrices.pop(name))


def stage_parameters(network: Any, expert_rank: int) -> dict[str, nn.Parameter]:
    """The parameters of one rank's GPT model by their names in a model with all layers and experts."""
    first_layer = network.decoder.layers[0].layer_number - 1
    parameters = {}
    for name, weight in network.named_parameters():
        parts = name.split(".")
        if parts[:2] == ["decoder", "layers"]:
            parts[2] = str(int(parts[2]) + first_layer)
        if "local_experts" in parts:
            position = parts.index("local_experts") + 1
            local_experts = network.get_submodule(".".join(name.split(".")[:position]))
            parts[position] = str(int(parts[position]) + expert_rank * len(local_experts))
        parameters[".".join(parts)] = weight
    return parameters


def _norm(config: ModelConfig, target: str, source: str) -> dict[str, WeightRule]:
    kinds = ("weight", "bias") if config.norm == "layernorm" else ("weight",)
    return {f"{target}.{kind}": _replicated(f"{source}.{kind}") for kind in kinds}


def _feed_forward(config: ModelConfig, target: str, source: str) -> dict[str, WeightRule]:
    first = [f"{source}.{part}_proj" for part in (("gate", "up") if config.gated else ("up",))]
    rules = {}
    for kind in ("weight", "bias") if config.feed_forward_bias else ("weight",):
        rules[f"{target}.linear_fc1.{kind}"] = _interleaved([f"{name}.{kind}" for name in first])
    rules[f"{target}.linear_fc2.weight"] = _sharded(f"{source}.down_proj.weight", 1)
    if config.feed_forward_bias:
        rules[f"{target}.linear_fc2.bias"] = _replicated(f"{source}.down_proj.bias")
    return rules


def _experts(moe: MoEConfig, target: str, source: str) -> dict[str, WeightRule]:
    rules = {f"{target}.router.weight": _replicated(f"{source}.router.weight")}
    for expert in range(moe.num_experts):
        gate, up, down = (f"{source}.experts.{part}_proj[{expert}]" for part in ("gate", "up", "down"))
        rules[f"{target}.experts.local_experts.{expert}.linear_fc1.weight"] = _interleaved([gate, up])
        rules[f"{target}.experts.local_experts.{expert}.linear_fc2.weight"] = _sharded(down, 1)
    if moe.num_shared_experts:
        gate, up, down = (f"{source}.shared_experts.{part}_proj.weight" for part in ("gate", "up", "down"))
        rules[f"{target}.shared_experts.linear_fc1.weight"] = _interleaved([gate, up])
        rules[f"{target}.shared_experts.linear_fc2.weight"] = _sharded(down, 1)
    return rules


def _replicated(source: str) -> WeightRule:
    """Identical on every rank."""
    return WeightRule((source,), lambda weights, ranks: weights * ranks, lambda parts: parts[:1])


def _sharded(source: str, dimension: int) -> WeightRule:
    """Contiguous shards along one dimension."""
    return WeightRule(
        (source,),
        lambda weights, ranks: list(weights[0].chunk(ranks, dimension)),
        lambda parts: [torch.cat(parts, dimension)],
    )


def _interleaved(sources: list[str]) -> WeightRule:
    """Each rank's shards of several matrices, one below the other."""

    def split(weights: list[Tensor], ranks: int) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(*(weight.chunk(ranks) for weight in weights), strict=True)]

    def merge(parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(*(part.chunk(len(sources)) for part in parts), strict=True)]

    return WeightRule(tuple(sources), split, merge)


def _grouped_heads(sources: list[str], config: ModelConfig) -> WeightRule:
    """By head group: the queries that share a key, the key, the value."""
    sizes = [config.num_heads // config.num_kv_heads * config.head_dim, config.head_dim, config.head_dim]

    def split(weights: list[Tensor], ranks: int) -> list[Tensor]:
        groups = [weight.unflatten(0, (config.num_kv_heads, -1)) for weight in weights]
        return [part.flatten(0, 1) for part in torch.cat(groups, 1).chunk(ranks)]

    def merge(parts: list[Tensor]) -> list[Tensor]:
        groups = torch.cat(parts).unflatten(0, (config.num_kv_heads, -1))
        return [part.flatten(0, 1) for part in groups.split(sizes, 1)]

    return WeightRule(tuple(sources), split, merge)
