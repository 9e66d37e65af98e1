"""[quantize]: how many bits a weight keeps."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob


class QuantizeConfig(BaseConfig):
    method: Literal["rtn", "gptq", "awq"] = knob(
        "gptq", "round to nearest; GPTQ (Frantar et al. 2022); AWQ (Lin et al. 2023)"
    )
    bits: Literal[4, 8] = knob(4, "bits of a weight")
    group_size: int = knob(
        128,
        "weights of one row that share a scale, at most: halved until it divides every layer's input width",
        ge=16,
    )
    symmetric: bool = knob(True, "no zero point: the widest support in serving engines")
    damp_percent: float = knob(
        0.01, "gptq: added to the diagonal of the inputs' second moment, as a share of its mean", gt=0
    )
    act_order: bool = knob(False, "gptq: round the weights of the largest inputs first")
    calibration_tokens: int = knob(32_768, "training tokens that gptq and awq look at", ge=512)
    eval_tokens: int = knob(
        32_768, "held-out tokens on which the small model is compared with the large one", ge=512
    )
