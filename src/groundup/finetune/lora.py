"""LoRA for training: which layers of a model get it. The layers themselves and merging: interop/adapters."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from groundup.artifacts.bounded_regex import RegexTimeout, regex_matches
from groundup.artifacts.errors import UserError
from groundup.interop.adapters.foreign_updates import ForeignLayout, candidate_families
from groundup.interop.adapters.lora_layer import LoRAExperts, LoRALinear, LoRASettings, lora_experts, lora_layers
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens
from groundup.model.frozen_linear import PackedLinear
from groundup.model.moe import Experts
from groundup.quantize.layers.quantized_experts import QuantizedExperts
from groundup.recipe.tuning_config import TuningConfig
from groundup.train.optimizer import set_learning_rate_ratio

TARGET_GROUPS = {
    "all": r".*",
    "attention": r".*attention(\.[^.]+)+",
    "feed_forward": r".*feed_forward(\.[^.]+)+",
    "mlp": r".*feed_forward(\.[^.]+)+",
}
"""Names for many layers at once; `all` are the linear layers of the blocks."""
EXPERTS = "experts"
"""Each expert of a mixture, which the other groups leave out."""


@dataclass(frozen=True)
class LoRAOptions:
    """Options of LoRA beyond rank and alpha, as the knobs lora_* of a recipe.

    Attributes:
        targets, dropout, rank_stabilized, dora: see `apply_lora`.
        plus_ratio: learning rate of B, and of vectors, over that of A (Hayou et al. 2024, LoRA+).
        token_rows: also train the embeddings of control tokens.
        new_tokens: ids of tokens that were added to the model, whose rows are trained in any case.
    """

    targets: tuple[str, ...] = ("all",)
    dropout: float = 0.0
    rank_stabilized: bool = False
    dora: bool = False
    plus_ratio: float = 1.0
    token_rows: bool = True
    new_tokens: tuple[int, ...] = ()


def lora_options(config: TuningConfig, *, trained_tokens: bool = False, new_tokens: Iterable[int] = ()) -> LoRAOptions:
    """The options of a recipe's table; `trained_tokens`: the base has learnt its control tokens, but not its `new_tokens`."""
    return LoRAOptions(
        config.lora_targets,
        config.lora_dropout,
        config.lora_rank_stabilized,
        config.lora_dora,
        config.lora_plus_ratio,
        not trained_tokens if config.lora_token_rows is None else config.lora_token_rows,
        () if config.lora_token_rows is False else tuple(new_tokens),
    )


def prepare_lora(
    model: nn.Module, rank: int, alpha: float, options: LoRAOptions, token_ids: Iterable[int] = ()
) -> None:
    """Freeze the model, and add what `options` say to train: LoRA, and the rows `token_ids` of the embedding. In place."""
    apply_lora(
        model, rank, alpha, targets=options.targets, dropout=options.dropout, rank_stabilized=options.rank_stabilized,
        dora=options.dora,
    )  # fmt: skip
    if options.plus_ratio != 1.0:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("lora_b" in name or parameter.ndim == 1):
                set_learning_rate_ratio(parameter, options.plus_ratio)
    if ids := sorted({*(token_ids if options.token_rows else ()), *options.new_tokens}):
        add_trainable_tokens(model, ids)


def apply_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    *,
    targets: str | Sequence[str] = ("all",),
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    dora: bool = False,
) -> list[str]:
    """Freeze the model and add LoRA to linear layers of its blocks, in place. Returns their names.

        apply_lora(model, rank=16, alpha=32.0, targets=["q_proj", "v_proj"])

    Args:
        targets: "all" (linear layers of the blocks), "attention", "feed_forward", "experts" (each expert of a mixture), or
            ends of module names, ours or those of the Hugging Face family, as regular expressions: "q_proj|v_proj",
            "layers.[0-3].self_attn.(q|k)_proj", "c_attn".
        dropout, rank_stabilized, dora: see LoRASettings.

    Initial values come from torch's global generator, in the order of the names. Raises UserError for a model with LoRA, and for
    a target that no layer has.
    """
    if rank < 1:
        raise UserError(f"rank = {rank}, expected at least 1")
    if lora_layers(model) or lora_experts(model):
        raise UserError("the model already has LoRA layers", hint="merge_lora(model) first")
    settings = LoRASettings(rank, alpha, dropout, rank_stabilized, dora)
    names = target_layers(model, [targets] if isinstance(targets, str) else targets)
    model.requires_grad_(False)
    for name in names:
        layer = model.get_submodule(name)
        model.set_submodule(
            name, LoRAExperts(layer, settings) if isinstance(layer, Experts) else LoRALinear(layer, settings)
        )
    return names


def target_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The layers that `targets` name, in the order of the model. Raises UserError for a target without any."""
    packed = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, QuantizedExperts))
    if packed and EXPERTS in targets:
        raise UserError(
            "LoRA target experts: the experts are packed in 4 bits", hint="method = lora trains their updates"
        )
    layers = {
        name: module
        for name, module in model.named_modules()
        if ".blocks." in f".{name}" and _is_target(module) and not name.startswith(packed or " ")
    }
    grouped = all(target in (*TARGET_GROUPS, EXPERTS) for target in targets)
    names = {name: {name} for name in layers} if grouped else _names(model, list(layers))
    chosen: set[str] = set()
    for target in targets:
        experts = target == EXPERTS
        try:
            pattern = re.compile(TARGET_GROUPS.get(target, rf"(.*\.)?({target})"))
        except re.error as error:
            raise UserError(f"LoRA target {target!r}: not a regular expression: {error}") from None
        candidates = [name for name, module in layers.items() if isinstance(module, Experts) == experts]
        if target in TARGET_GROUPS or experts:
            found = {name for name in candidates if experts or pattern.fullmatch(name)}
        else:
            found = {name for name in candidates if any(_matches(target, pattern, each) for each in names[name])}
        if not found:
            known = sorted({each.rpartition(".")[2] for name in layers for each in names[name]})
            raise UserError(
                f"LoRA target {target!r}: no such layer in the model",
                hint=f"layers: {', '.join(known)}; or a group: {', '.join((*TARGET_GROUPS, EXPERTS))}",
            )
        chosen |= found
    return [name for name in layers if name in chosen]


def _matches(target: str, pattern: re.Pattern[str], name: str) -> bool:
    try:
        return regex_matches(pattern.pattern, name, whole=True)
    except RegexTimeout as error:
        raise UserError(
            f"LoRA target {target!r} takes more than {error} to compare with {name}",
            hint="expected a pattern without a repetition inside of another",
        ) from None


def _is_target(module: nn.Module) -> bool:
    return type(module) is nn.Linear or isinstance(module, Experts | PackedLinear)


def _names(model: nn.Module, layers: list[str]) -> dict[str, set[str]]:
    """The names of each layer: ours, and those of the Hugging Face families that represent the model."""
    names = {name: {name} for name in layers}
    for family in candidate_families(model.config):
        try:
            layout = ForeignLayout(model, family)
        except UserError:
            continue
        for name in layers:
            if (tensor_map := layout.by_native.get(f"{name}.weight")) is not None:
                names[name] |= {foreign.removesuffix(".weight") for foreign in tensor_map.foreign}
    return names
