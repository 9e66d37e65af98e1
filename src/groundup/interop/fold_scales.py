"""Folding of scale factors into weights, for layouts that have no such factors.

muP divides the logits by the width, and a recipe may scale them too (`logit_scale`). Other families have no such factor, or
a fixed one. The norm before the head absorbs it: scale * (weight * x) = (scale * weight) * x.
"""

from torch import Tensor, nn

from groundup.model.norm import ZeroCenteredRMSNorm
from groundup.recipe import ModelConfig

FINAL_NORM = {"decoder": "final_norm", "encoder_decoder": "decoder.final_norm"}
"""Architectures whose final norm feeds the head only; an encoder's output is also an embedding."""


def fold_scales(model: nn.Module, *, family_scale: bool = True) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of `model` with folded scales: the same function of tokens.

    `family_scale`: the fixed scale of the exported family stays, since its readers apply it.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    weights: dict[str, Tensor] = model.state_dict()
    folded_config = fold_config(config, family_scale=family_scale)
    if folded_config is config:
        return config, weights
    scale = config.logit_scale / config.width_multiplier / folded_config.logit_scale
    name = FINAL_NORM[config.architecture]
    offset = 1.0 if isinstance(model.get_submodule(name), ZeroCenteredRMSNorm) else 0.0
    folded = {f"{name}.weight": (weights[f"{name}.weight"] + offset) * scale - offset}
    if f"{name}.bias" in weights:
        folded[f"{name}.bias"] = weights[f"{name}.bias"] * scale
    return folded_config, weights | folded


def fold_config(config: ModelConfig, *, family_scale: bool = True) -> ModelConfig:
    """`config` with folded scales; itself if there is nothing to fold, or no norm to absorb it."""
    foreign_scale = _family_logit_scale(config) if family_scale else 1.0
    scale = config.logit_scale / config.width_multiplier / foreign_scale
    if scale == 1.0 or config.norm_placement == "post" or config.architecture not in FINAL_NORM:
        return config
    if config.norm.startswith("unweighted"):
        return config
    return config.model_copy(update={"logit_scale": foreign_scale, "mup_base_width": None})


def _family_logit_scale(config: ModelConfig) -> float:
    """The fixed logit scale of the exported family: T5 with a tied head has one."""
    t5 = config.architecture == "encoder_decoder" and config.position_embedding == "relative"
    tied = t5 and config.tie_embeddings
    return config.hidden_size**-0.5 if tied else 1.0
