"""Export of a model to a named format: Hugging Face or GGUF."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.interop.classifier_files import find_classifier_family, read_classifier, write_classifier
from groundup.interop.huggingface_model import DTYPES, check_huggingface, export_huggingface
from groundup.interop.model_card import ModelCard, copy_legal_files, read_model_card, write_card_files
from groundup.interop.reward_files import is_reward_model, read_reward
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer


def export(
    model: nn.Module,
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    format: str,
    dtype: str | torch.dtype | None = None,
    source: Path | None = None,
    importance: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    """Write `model` into the folder `out` as `format`, its weights as `dtype`, None: its own. Returns the files written.

    source: folder or .gguf file of the model, whose name and licence the export keeps, and the head of a classifier: as a
        class of transformers where one has its form, else beside the model, for groundup.
    importance: of the inputs of layers, for the types that gguf alone has: `interop.gguf.measure_importance`.

    Raises UserError for an unknown format or dtype, and for a model that the format cannot represent.

    >>> model, tokenizer = open_model("runs/quickstart")
    >>> export(model, tokenizer, Path("out"), format="huggingface", dtype="bfloat16")
    """
    if format not in EXPORT_FORMATS:
        raise UserError(f"format {format!r}, expected one of {', '.join(EXPORT_FORMATS)}")
    out, dtype = Path(out), str(dtype or own_dtype(model)).removeprefix("torch.")
    out.mkdir(parents=True, exist_ok=True)
    head = read_classifier(source) if source is not None and source.is_dir() else None
    fits = head is not None and format == "huggingface" and find_classifier_family(model.config, head) is not None  # type: ignore[arg-type]
    files = [] if head is None or fits else write_classifier(head, out)
    has_score = source is not None and is_reward_model(source)
    if format == "gguf" and has_score:
        raise UserError("format gguf has no place for the layer of a reward model", hint="--format huggingface")
    if format == "gguf":
        card = read_model_card(source) if source else {}
        files += _gguf(model, tokenizer, out, dtype, card, importance)
        return [*files, *(copy_legal_files(source, out) if source else ())]
    score = read_reward(source, model) if has_score and source is not None else None
    files += export_huggingface(model, tokenizer, out, dtype, classifier=head if fits else None, score=score)
    return [*files, *(write_card_files(source, out) if source else ())]


def own_dtype(model: nn.Module) -> torch.dtype:
    """The floating dtype of most weights of `model`."""
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.dtype in DTYPES.values():
            counts[parameter.dtype] += parameter.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32


def _gguf(
    model: nn.Module,
    tokenizer: Tokenizer,
    out: Path,
    dtype: str,
    card: ModelCard | None = None,
    importance: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    from groundup.interop.gguf import export_gguf  # optional dependency

    return [export_gguf(model, tokenizer, out / "model.gguf", dtype, card, importance)]


def _check_gguf(config: ModelConfig, dtype: str) -> None:
    from groundup.interop.gguf import check_gguf  # optional dependency

    check_gguf(config, dtype)


EXPORT_CHECKS: dict[str, Callable[[ModelConfig, str], Any]] = {"huggingface": check_huggingface, "gguf": _check_gguf}
EXPORT_FORMATS = {"huggingface": export_huggingface, "gguf": _gguf}
