"""[quantize]: how many bits a weight keeps."""

from typing import Literal

from groundup.recipe.section import Section, knob


class QuantizeSection(Section):
    method: Literal["rtn", "gptq", "awq"] = knob("gptq", "round to nearest; GPTQ (Frantar et al. 2022); AWQ (Lin et al. 2023)")
    bits: Literal[4, 8] = knob(4, "bits of a weight")
    group_size: int = knob(128, "weights of one row that share a scale; must divide every layer's input width", ge=16)
    symmetric: bool = knob(True, "no zero point: the widest support in serving engines")
    calibration_tokens: int = knob(65_536, "training tokens that gptq and awq look at", ge=512)
