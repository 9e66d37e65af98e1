"""Calibration of GGUF exports: the importance of the inputs of layers, on the text that `groundup quantize` would take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.quantize.calibration_text import calibration_text
from groundup.recipe.output_config import QuantizeConfig
from groundup.tokenizer import Tokenizer

CALIBRATION_TOKENS = 8_192
"""Means of squares need fewer tokens than the matrices of GPTQ."""
UNWEIGHTED = ("q8_0",)
"""Types whose codes follow from the range alone."""


def gguf_importance(
    model: nn.Module,
    tokenizer: Tokenizer,
    inputs: dict[str, Path],
    dtype: str,
    seed: int = 0,
    files: Sequence[Path] = (),
) -> tuple[Mapping[str, Tensor] | None, str]:
    """The importance for an export as `dtype`, None for one without packed types; and what it was measured on.

    Args: as those of `calibration_text`.

    A model without text and unable to write some is rounded without. Raises UserError for `files` with too little text.
    """
    from groundup.interop.gguf import measure_importance  # optional dependency
    from groundup.interop.gguf.types.tensor_types import MIXES

    if dtype not in MIXES or dtype in UNWEIGHTED:
        return None, ""
    section = QuantizeConfig(calibration_tokens=CALIBRATION_TOKENS, eval_tokens=512)
    try:
        material = calibration_text(model, tokenizer, inputs, section, seed, files)
    except UserError as error:
        if files:
            raise
        return None, f"{dtype} without calibration text ({error.message}): --calibration FILE gives a better model"
    said = f"{dtype}, weighted by the inputs of layers on {material.windows.numel():,} tokens ({material.origin})"
    return measure_importance(model, material.windows), said
