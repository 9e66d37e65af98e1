"""What other layouts have no word for, folded into weights that they have.

muP divides the scores by the width, and a recipe may scale them too (`logit_scale`). Families have no such
factor, or one of their own. The norm before the head takes it: scale * (weight * x) = (scale * weight) * x.
"""

from torch import Tensor, nn

from groundup.model.norm import ZeroCenteredRMSNorm
from groundup.recipe import ModelConfig

FINAL_NORM = {"decoder": "final_norm", "encoder_decoder": "decoder.final_norm"}
"""Where only the head reads the output of the norm; that of an encoder is also read as an embedding."""


def fold_scales(model: nn.Module) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of `model` as other layouts can say them: the same function of tokens."""
    config: ModelConfig = model.config  # type: ignore[assignment]
    weights: dict[str, Tensor] = model.state_dict()
    wanted = _family_logit_scale(config)
    scale = config.logit_scale / config.width_multiplier / wanted
    if scale == 1.0 or config.norm_placement == "post" or config.architecture not in FINAL_NORM:
        return config, weights
    name = FINAL_NORM[config.architecture]
    offset = 1.0 if isinstance(model.get_submodule(name), ZeroCenteredRMSNorm) else 0.0
    folded = {f"{name}.weight": (weights[f"{name}.weight"] + offset) * scale - offset}
    if f"{name}.bias" in weights:
        folded[f"{name}.bias"] = weights[f"{name}.bias"] * scale
    return config.model_copy(update={"logit_scale": wanted, "mup_base_width": None}), weights | folded


def _family_logit_scale(config: ModelConfig) -> float:
    """T5 has a factor where its head is tied; nobody else has one."""
    tied = config.architecture == "encoder_decoder" and config.tie_embeddings
    return config.hidden_size**-0.5 if tied else 1.0
