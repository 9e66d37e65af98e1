"""Export of a model to a named format: Hugging Face or GGUF."""

from pathlib import Path

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.huggingface_model import export_huggingface
from groundup.tokenizer import Tokenizer


def export(
    model: nn.Module, tokenizer: Tokenizer, out: Path | str, *, format: str, dtype: str | torch.dtype = "float32"
) -> list[Path]:
    """Write `model` into the folder `out` as `format`, its weights as `dtype`. Returns the files written.

    Raises UserError for an unknown format or dtype, and for a model that the format cannot represent.

    >>> model, tokenizer = open_model("runs/quickstart")
    >>> export(model, tokenizer, Path("out"), format="huggingface", dtype="bfloat16")
    """
    if format not in EXPORT_FORMATS:
        raise UserError(f"format {format!r}, expected one of {', '.join(EXPORT_FORMATS)}")
    out, dtype = Path(out), str(dtype).removeprefix("torch.")
    out.mkdir(parents=True, exist_ok=True)
    return EXPORT_FORMATS[format](model, tokenizer, out, dtype)


def _gguf(model: nn.Module, tokenizer: Tokenizer, out: Path, dtype: str) -> list[Path]:
    from groundup.interop.gguf import export_gguf  # optional dependency

    return [export_gguf(model, tokenizer, out / "model.gguf", dtype)]


EXPORT_FORMATS = {"huggingface": export_huggingface, "gguf": _gguf}
