"""Which base model an adapter belongs to: hashes of samples of its weights.

An adapter on another base gives text that looks nearly right, so the mistake is not seen. The hash of a tensor is that of 256
values of it, evenly spaced and rounded to bfloat16: quick, and the same for the model in float32 and bfloat16. Tensors that are
quantized on either side are not compared.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.artifacts.manifest import Manifest
from groundup.interop.adapters.foreign_updates import plain_weights
from groundup.stages import MODEL_STAGES
from groundup.tokenizer import Tokenizer

BASE_MODEL_FILE = "base_model.json"
SAMPLES = 256
HASH_LENGTH = 12


def base_name(folder: Path) -> str:
    """What an adapter calls the base model in the stage folder `folder`: the name of the folder in [base], else RUN/STAGE."""
    model = _named_base(folder)
    return f"{folder.resolve().parent.name}/{folder.name}" if model is None else model


def has_trained_tokens(folder: Path, tokenizer: Tokenizer) -> bool:
    """Whether the model in the stage folder `folder` has learnt its control tokens: tuned, or of [base] with a chat template."""
    manifest = Manifest.read(folder)
    tuned = manifest is not None and manifest.stage in MODEL_STAGES[1:]
    return tuned or (_named_base(folder) is not None and tokenizer.chat_template is not None)


def _named_base(folder: Path) -> str | None:
    """The name of the model of [base], from the metrics of its stage; None: the run has trained it."""
    manifest = Manifest.read(folder)
    metrics = {} if manifest is None else manifest.metrics
    return metrics.get("model") if "format" in metrics else None


def base_fingerprint(model: nn.Module) -> dict[str, str]:
    """The hash of each floating-point tensor of the base model, by name."""
    return {
        name: tensor_hash(tensor)
        for name, tensor in plain_weights(model).items()
        if tensor.is_floating_point() and not tensor.is_meta
    }


def tensor_hash(tensor: Tensor) -> str:
    """Hash of a sample of the values, and of the shape."""
    flat = tensor.detach().reshape(-1)
    indices = torch.linspace(0, max(flat.numel() - 1, 0), SAMPLES if flat.numel() else 0, dtype=torch.float64).long()
    sample = flat[indices.to(flat.device)]
    data = sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()
    return hashlib.sha256(repr(tuple(tensor.shape)).encode() + data).hexdigest()[:HASH_LENGTH]


def write_base_model(model: nn.Module, folder: Path, name: str | None) -> None:
    """base_model.json: the name of the base and its fingerprint."""
    content: dict[str, Any] = {"base": name, "tensors": base_fingerprint(model)}
    (folder / BASE_MODEL_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_base_model(model: nn.Module, folder: Path) -> None:
    """Raises UserError if the folder says that its adapter was trained on another model."""
    path = folder / BASE_MODEL_FILE
    if not path.is_file() or getattr(model, "is_rounded", False):
        return  # PEFT's folders have no fingerprint; models in a kernel's layout have other values
    content = read_json_object(path)
    expected, found = content.get("tensors"), base_fingerprint(model)
    if not isinstance(expected, dict):
        raise UserError(f"{path}: tensors = {expected!r}, expected hashes by name")
    different = [name for name in found if name in expected and expected[name] != found[name]]
    if different:
        base = content.get("base") or "another model"
        raise UserError(
            f"{folder}: the adapter was trained on {base}, whose {different[0]} differs from this model's"
            + (f" (and {len(different) - 1} more)" if len(different) > 1 else ""),
            hint=_base_hint(folder, base),
        )


def _base_hint(folder: Path, base: str) -> str:
    """Where the base of an adapter in a stage of a run is: the stage before it, whose model holds the adapters before."""
    run = folder.resolve().parent.parent
    stage = run / base.rpartition("/")[2]
    if base.startswith(f"{run.name}/") and stage.is_dir():
        return f"open it on {stage}; or open {run} alone, whose last model holds the adapters of all its stages"
    return "open it on the base model that it was trained on, not on a merged one"
