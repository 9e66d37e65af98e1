"""Selection of the Hugging Face family for an export: the first whose config.json, read again, is the same model.

This needs no separate list of the features of each family that could disagree with `Family.read` and `Family.write`.
"""

from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES
from groundup.interop.families.family import Family
from groundup.interop.families.rope_config import ROPE_SCALING_FIELDS
from groundup.recipe import ModelConfig


def select_family(config: ModelConfig) -> Family:
    """The simplest family that represents all of `config`. Raises UserError naming the differences of the nearest one."""
    candidates = [f for f in FAMILIES.values() if f.kind == config.architecture and f.moe == (config.moe is not None)]
    losses: dict[str, list[str]] = {}
    for family in candidates:
        losses[family.name] = lossy_fields(config, family)
        if not losses[family.name]:
            return family
    if not losses:
        raise UserError(f"no Hugging Face family is an {config.architecture} with a mixture of experts")
    # A family that refuses what it would write itself is not near.
    nearest = min(losses, key=lambda name: (losses[name][0].startswith("config.json: "), len(losses[name])))
    raise UserError(
        f"the model cannot be exported as {nearest}, the nearest family: {'; '.join(losses[nearest])}",
        hint=f"families: {', '.join(FAMILIES)}",
    )


def lossy_fields(config: ModelConfig, family: Family) -> list[str]:
    """`knob must be x, is y` for each knob that the family's config.json does not preserve."""
    try:
        required = family.read_config(family.write_config(config))
        head = {"masked_lm_head": config.masked_lm_head}  # decided by the stored tensors, as the next
        head |= {"head_bias": config.head_bias} if family.logit_bias else {}
        return config_differences(config, required.model_copy(update=head))
    except UserError as error:
        return [error.message]


def config_differences(config: ModelConfig, required: ModelConfig) -> list[str]:
    """`knob must be x, is y` for each knob in which the models differ."""
    left, right = canonical_config(config), canonical_config(required)
    return [
        f"{knob} must be {right.get(knob)!r}, is {left.get(knob)!r}"
        for knob in left | right
        if left.get(knob) != right.get(knob)
    ]


def canonical_config(config: ModelConfig) -> dict[str, Any]:
    """The knobs that decide the output, in one form for each meaning; unused knobs are left out."""
    knobs = config.model_dump(exclude=set(TRAINING_ONLY_FIELDS))
    layer_types = config.layer_types
    if config.rope_local_theta is None and (config.sliding_window or 0) >= config.context_length:
        layer_types = ("global",) * config.num_layers  # the window covers the whole context
    knobs["attention_pattern"] = layer_types
    knobs["rotary_dim"] = config.rotary_dim or config.head_dim
    knobs["rope_pattern"] = tuple(map(config.rotates, range(config.num_layers)))
    knobs["attention_scale"] = config.attention_scale or config.head_dim**-0.5
    if scaling := config.rope_scaling:
        read = {knob: getattr(scaling, knob) for knob in ROPE_SCALING_FIELDS[scaling.method]}
        if "original_context_length" in read:
            read["original_context_length"] = scaling.original_context_length or config.context_length
        knobs["rope_scaling"] = {"method": scaling.method, **read}
    knobs["masked_head_bias"] = config.feed_forward_bias if config.masked_head_bias is None else config.masked_head_bias
    knobs["logit_scale"] = config.logit_scale / config.width_multiplier
    local = "local" in layer_types
    # The local base counts if it differs from the global one, or if only the global one is scaled.
    unscaled = config.rope_local_theta is not None and config.rope_scaling is not None
    local_base = unscaled or config.rope_local_theta not in (None, config.rope_theta)
    has_masked_head = config.architecture == "encoder" and config.masked_lm_head
    unused = {
        "sliding_window": not local,
        "rotary_dim": config.position_embedding != "rope",
        "rope_theta": config.position_embedding != "rope",
        "rope_scaling": config.position_embedding != "rope",
        "rope_local_theta": config.position_embedding != "rope" or not local or not local_base,
        "swiglu_alpha": config.feed_forward != "swiglu_clamped",
        "swiglu_limit": config.feed_forward != "swiglu_clamped",
        "relative_buckets": config.position_embedding != "relative",
        "relative_bias_per_layer": config.position_embedding != "relative",
        "relative_max_distance": config.position_embedding != "relative",
        "keep_first_norm": not config.embedding_norm or config.norm_placement not in ("pre", "parallel"),
        "rope_pattern": config.position_embedding != "rope",
        "qk_norm_type": not config.qk_norm,
        "qk_norm_after_rope": not config.qk_norm,
        "norm_bias": config.norm != "layernorm",
        "num_encoder_layers": config.architecture != "encoder_decoder",
        "forced_bos_token_id": config.architecture != "encoder_decoder",
        "decoder_start_token_id": config.architecture != "encoder_decoder",
        "num_token_types": config.architecture != "encoder",
        "head_bias": config.architecture == "encoder",
        "masked_head_activation": not has_masked_head,
        "masked_head_bias": not has_masked_head,
    }
    if config.moe is not None:
        knobs["moe"] = config.moe.model_dump(exclude={"load_balancing_rate", "num_dense_layers"})
        knobs["moe"]["dense_layers"] = [layer for layer in range(config.num_layers) if config.moe.is_dense(layer)]
        if config.moe.router_activation == "sparsemixer":
            del knobs["moe"]["normalize_scores"]
        else:
            del knobs["moe"]["router_jitter"]
        if config.moe.num_expert_groups == config.moe.experts_groups_per_token:  # no limit
            knobs["moe"] |= {"num_expert_groups": 1, "experts_groups_per_token": 1}
        if config.moe.load_balancing == "auxiliary_loss":  # only a bias has an effect after training
            knobs["moe"]["load_balancing"] = "none"
    if config.state_space is not None:
        unused |= dict.fromkeys(
            ("rope_theta", "rope_scaling", "rope_pattern", "intermediate_size", "attention_scale"), True
        )
    return {knob: value for knob, value in knobs.items() if not unused.get(knob)}


TRAINING_ONLY_FIELDS = ("init_std", "depth_scaled_init", "mup_base_width", "pooling", "moe")
"""Knobs without effect on the stored model."""
