"""A model of ours in another layout, by the layout's name."""

from pathlib import Path

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.huggingface_model import export_huggingface
from groundup.tokenizer import Tokenizer


def export(model: nn.Module, tokenizer: Tokenizer, out: Path, *, format: str, dtype: str) -> list[Path]:
    """Write `model` into the folder `out` as `format`, its weights as `dtype`. Returns the files written.

    Raises UserError for a format or dtype that we do not write, and for a model that the format cannot hold.
    """
    if format not in EXPORT_FORMATS:
        raise UserError(f"format {format!r}, expected one of {', '.join(EXPORT_FORMATS)}")
    out.mkdir(parents=True, exist_ok=True)
    return EXPORT_FORMATS[format](model, tokenizer, out, dtype)


def _gguf(model: nn.Module, tokenizer: Tokenizer, out: Path, dtype: str) -> list[Path]:
    from groundup.interop.gguf import export_gguf  # only here, because the gguf package is optional

    return [export_gguf(model, tokenizer, out / "model.gguf", dtype)]


EXPORT_FORMATS = {"huggingface": export_huggingface, "gguf": _gguf}
