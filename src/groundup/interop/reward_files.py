"""The linear layer of a reward model: ours beside a model, and in Hugging Face folders, as trl and transformers have it.

Sources: transformers 5, the classes ...ForSequenceClassification of decoders with one label: `score.weight`, no bias, on the
hidden state of the last token that is no padding.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.interop.adapters.base_fingerprint import base_fingerprint
from groundup.interop.classifier_files import TEXT, class_name
from groundup.interop.families import Family, require_family
from groundup.interop.families.family import Json
from groundup.interop.safetensors_files import SafetensorsFolder
from groundup.model.serialization import save_tensors

REWARD_FILE = "reward.safetensors"
"""Beside the files of the model: the linear layer, as `score.weight`, its name in transformers."""
SCORE = "score.weight"
WITHOUT_SCORE = (
    "apertus", "codegen", "cohere", "cohere2", "cwm", "dots1", "ernie4_5", "ernie4_5_moe", "flex_olmo", "glm4_moe",
    "glm4_moe_lite", "granite", "granitemoe", "granitemoeshared", "hyperclovax", "jais2", "llama4_text", "mamba2", "minimax_m2",
    "nanochat", "olmoe", "qwen3_5_moe_text", "sarvam_mla", "solar_open", "youtu",
)  # fmt: skip
"""Families of decoders for which transformers has no class with a score."""


def has_score(fields: Json, family: Family) -> bool:
    """Whether config.json is that of a decoder with one score for a text in place of a head of tokens."""
    return family.kind == "decoder" and class_name(fields).endswith(TEXT) and len(fields.get("id2label") or "01") == 1


def is_reward_model(folder: Path) -> bool:
    """Whether the model in `folder` scores answers and writes none."""
    if (folder / REWARD_FILE).is_file():
        return True
    if not folder.is_dir() or not (folder / "config.json").is_file() or (folder / "model.json").is_file():
        return False
    fields = read_json_object(folder / "config.json")
    return class_name(fields).endswith(TEXT) and has_score(fields, require_family(fields.get("model_type"), folder))


def write_reward(weight: Tensor, model: nn.Module, folder: Path) -> Path:
    """Write the layer `weight` (1 D) into `folder`, with the fingerprint of the model that it was trained with."""
    path = folder / REWARD_FILE
    content = json.dumps(base_fingerprint(model), separators=(",", ":"))
    save_tensors({SCORE: weight.detach().float().cpu().contiguous()}, path, {"format": "pt", "model": content})
    return path


def read_reward(folder: Path, model: nn.Module | None = None) -> Tensor:
    """The layer (1 D) in `folder`. Raises UserError without one, for a damaged one, and for that of another `model`."""
    path = folder / REWARD_FILE
    if not path.is_file():
        if folder.is_dir() and is_reward_model(folder):
            return SafetensorsFolder(folder).read(SCORE).float()
        raise UserError(f"{folder}: no reward model", hint="preference.loss = reward makes one")
    try:
        with safe_open(path, "pt") as file:
            weight, metadata = file.get_tensor(SCORE), file.metadata() or {}
        expected: dict[str, str] = json.loads(metadata.get("model", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from None
    found = {} if model is None or not expected else base_fingerprint(model)
    if different := [name for name in found if expected.get(name, found[name]) != found[name]]:
        raise UserError(
            f"{folder}: the reward was trained with another model, whose {different[0]} differs from this one's",
            hint=f"open the model in {folder}",
        )
    return weight


def score_fields(family: Family) -> dict[str, Any]:
    """Keys of config.json by which transformers builds the reward model. Raises UserError where it has no class for it."""
    if family.name in WITHOUT_SCORE:
        raise UserError(
            f"transformers has no {family.name} model that scores texts", hint="groundup classify scores answers"
        )
    stem = family.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    return {"architectures": [f"{stem}{TEXT}"], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
