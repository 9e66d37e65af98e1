"""[quantize], [export] and [report]: what is made of the final model."""

import re
from typing import Literal

from pydantic import field_validator

from groundup.artifacts.errors import UserError
from groundup.recipe.base_config import BaseConfig, knob

SIZE_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(SIZE_UNITS)})")


DEFAULT_BITS = 4
"""Of [quantize]."""


def size_in_bytes(text: str, name: str) -> int:
    """The bytes of a size such as 2GB. Raises UserError, which says `name`, for another text."""
    if (match := SIZE.fullmatch(text)) is None:
        raise UserError(f"{name} {text!r}, expected a number and {', '.join(SIZE_UNITS)}", hint="such as 2GB")
    return int(float(match[1]) * SIZE_UNITS[match[2]])


class QuantizeConfig(BaseConfig):
    """Quantization of the final model."""

    method: Literal["rtn", "gptq", "awq", "autoround", "nf4", "float8", "smoothquant"] = knob(
        "autoround",
        "round to nearest; GPTQ (Frantar et al. 2022); AWQ (Lin et al. 2023); autoround: rounding learned block by block "
        "(Cheng et al. 2023); nf4: 4-bit normal floats (Dettmers et al. 2023); float8: E4M3; smoothquant: 8 bits for weights and "
        "inputs (Xiao et al. 2022)",
    )
    bits: int | None = knob(
        None, "bits per weight", ge=2, le=8, unset=f"derived: {DEFAULT_BITS}, of float8 and smoothquant 8"
    )
    size: str | None = knob(
        None,
        "largest size of the model's file, such as 90MB: in place of `bits`, each layer gets 2 to 8, more where the loss depends "
        "on it",
        unset="the same bits for all layers",
    )
    group_size: int = knob(
        128, "weights of one row per scale, at least 16; the last group may be shorter; -1: one scale per row", ge=-1
    )
    symmetric: bool | None = knob(
        None, "no zero points: supported by most serving engines", unset="derived: true, for awq false"
    )
    damp_percent: float = knob(
        0.05, "gptq: value added to the diagonal of the Hessian, as a fraction of its mean", gt=0
    )
    act_order: bool = knob(
        True, "gptq: quantize the weights of the largest inputs first; files need no order of groups"
    )
    rounding_steps: int = knob(
        50, "autoround: steps of signed gradient descent for each block, with a calibration window each", ge=1
    )
    calibration_tokens: int = knob(32_768, "training tokens for calibration", ge=512)
    eval_tokens: int = knob(32_768, "validation tokens for the comparison with the original model", ge=512)

    @property
    def size_bytes(self) -> int | None:
        """`size` in bytes."""
        return None if self.size is None else size_in_bytes(self.size, "size")

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        if size is not None and SIZE.fullmatch(size) is None:
            raise ValueError(f"{size!r}, expected a number and {', '.join(SIZE_UNITS)}, such as 90MB")
        return size

    @field_validator("group_size")
    @classmethod
    def _check_group_size(cls, size: int) -> int:
        if size != -1 and size < 16:
            raise ValueError(f"{size}, expected at least 16, or -1 for one scale per row")
        return size


ExportDtype = Literal[
    "float32",
    "bfloat16",
    "float16",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q5_0",
    "q4_k_m",
    "q4_k_s",
    "q4_0",
    "q3_k_m",
    "q2_k",
]


class ExportConfig(BaseConfig):
    """The final model in a format for other software."""

    format: Literal["huggingface", "gguf"] = knob(
        "huggingface", "huggingface: folder for transformers; gguf: file for llama.cpp"
    )
    dtype: ExportDtype | None = knob(
        None,
        "data type of the weights; only in gguf: q8_0 to q2_k, llama.cpp's mixes of 8 to 2 bits, rounded by the inputs of layers "
        "on calibration text",
        unset="that of the model's weights",
    )


class ReportConfig(BaseConfig):
    """The PDF and HTML report of the run."""

    title: str | None = knob(None, "title", unset="name of the recipe")
    author: str | None = knob(None, "author", unset="left out")
