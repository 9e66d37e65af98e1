"""Which family can hold a model of ours? The first whose config.json, read again, describes the same model.

So there is no second list of what a family can do that could disagree with the two maps of the first.
"""

from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES
from groundup.interop.families.family import Family
from groundup.interop.families.rope_config import ROPE_SCALING_FIELDS
from groundup.recipe import ModelConfig


def select_family(config: ModelConfig) -> Family:
    """The plainest family that says all of `config`.

    Raises UserError naming the knobs that the nearest family cannot follow.
    """
    kin = [
        f for f in FAMILIES.values() if f.kind == config.architecture and f.moe == (config.moe is not None)
    ]
    losses = {family.name: lossy_fields(config, family) for family in kin}
    for family in kin:
        if not losses[family.name]:
            return family
    if not losses:
        raise UserError(
            f"no family that others can open is an {config.architecture} with a mixture of experts"
        )
    nearest = min(losses, key=lambda name: len(losses[name]))
    raise UserError(
        f"no family that others can open holds this model; the nearest, {nearest}, cannot say "
        f"{', '.join(losses[nearest])}",
        hint=f"families: {', '.join(FAMILIES)}",
    )


def lossy_fields(config: ModelConfig, family: Family) -> list[str]:
    """`knob = value` for each knob that comes back changed from the family's config.json."""
    try:
        return config_differences(config, family.read_config(family.write_config(config)))
    except UserError as error:
        return [error.message]


def config_differences(expected: ModelConfig, found: ModelConfig) -> list[str]:
    """`knob = value`, as wanted, for each knob in which the models differ."""
    left, right = canonical_config(expected), canonical_config(found)
    return [f"{knob} = {left.get(knob)!r}" for knob in left | right if left.get(knob) != right.get(knob)]


def canonical_config(config: ModelConfig) -> dict[str, Any]:
    """What decides the output, with one value for each meaning: knobs that nothing reads are left out."""
    knobs = config.model_dump(exclude=set(TRAINING_ONLY_FIELDS))
    kinds = config.layer_types
    if config.rope_local_theta is None and (config.sliding_window or 0) >= config.context_length:
        kinds = ("global",) * config.num_layers  # a window as long as the text hides nothing
    knobs["attention_pattern"] = kinds
    knobs["attention_scale"] = config.attention_scale or config.head_dim**-0.5
    if scaling := config.rope_scaling:
        read = {knob: getattr(scaling, knob) for knob in ROPE_SCALING_FIELDS[scaling.method]}
        if "original_context_length" in read:
            read["original_context_length"] = scaling.original_context_length or config.context_length
        knobs["rope_scaling"] = {"method": scaling.method, **read}
    knobs["logit_scale"] = config.logit_scale / config.width_multiplier
    local = "local" in kinds
    # Local layers have a base of their own where it differs, or where theirs alone is not scaled.
    unscaled = config.rope_local_theta is not None and config.rope_scaling is not None
    own_base = unscaled or config.rope_local_theta not in (None, config.rope_theta)
    unread = {
        "sliding_window": not local,
        "rope_theta": config.position_embedding != "rope",
        "rope_scaling": config.position_embedding != "rope",
        "rope_local_theta": config.position_embedding != "rope" or not local or not own_base,
        "relative_buckets": config.position_embedding != "relative",
        "relative_max_distance": config.position_embedding != "relative",
        "norm_bias": config.norm != "layernorm",
        "num_encoder_layers": config.architecture != "encoder_decoder",
        "decoder_start_token_id": config.architecture != "encoder_decoder",
        "num_token_types": config.architecture != "encoder",
        "masked_lm_head": True,  # the weights say it
    }
    if config.moe is not None:
        knobs["moe"] = config.moe.model_dump(exclude={"load_balancing_rate"})
        if config.moe.load_balancing == "auxiliary_loss":  # gone with the training; a bias goes on choosing
            knobs["moe"]["load_balancing"] = "none"
    return {knob: value for knob, value in knobs.items() if not unread.get(knob)}


TRAINING_ONLY_FIELDS = ("init_std", "depth_scaled_init", "mup_base_width", "pooling", "moe")
"""Knobs of training and of reading, which matter no more, or not to the weights."""
