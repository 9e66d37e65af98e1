"""Sampling that a model's publisher recommends: generation_config.json, or the entries `general.sampling.*` of a GGUF file.

They follow the model from import to export, with what else generation_config.json says; the commands sample as they are told.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.json_file import read_json_object

GENERATION_FILE = "generation_config.json"
MAX_VALUE = 1 << 31
NOT_SETTINGS = ("_from_model_config", "transformers_version")
SAMPLING_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""Field of generation_config.json -> entry of a GGUF file."""


def read_sampling_defaults(folder: Path) -> dict[str, float]:
    """The settings that generation_config.json names; {} where the model answers greedily."""
    file = folder / GENERATION_FILE
    fields = read_json_object(file) if file.is_file() else {}
    return _numbers(fields) if fields.get("do_sample") else {}


def sampling_of_metadata(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The settings that the metadata of a GGUF file names."""
    found = _numbers({field: metadata.get(key) for field, key in SAMPLING_KEYS.items()})
    # The file has float32: 0.6 again, not 0.60000002.
    return {field: value if type(value) is int else float(f"{value:.7g}") for field, value in found.items()}


def metadata_of_sampling(defaults: Mapping[str, float]) -> dict[str, float]:
    """The entries of a GGUF file."""
    return {key: defaults[field] for field, key in SAMPLING_KEYS.items() if field in defaults}


def write_sampling_defaults(defaults: Mapping[str, float], folder: Path) -> list[Path]:
    """Add the settings to generation_config.json of `folder`. Returns the files written."""
    file = folder / GENERATION_FILE
    if not defaults:
        return []
    fields = (read_json_object(file) if file.is_file() else {}) | {"do_sample": True} | dict(defaults)
    write_atomically(file, (json.dumps(fields, indent=2) + "\n").encode())
    return [file]


def copy_generation_settings(source: Path, out: Path) -> list[Path]:
    """Add the fields of generation_config.json in `source`, but token ids, to that of `out`, whose own stay.

    Returns the files written.
    """
    if not (source / GENERATION_FILE).is_file():
        return []
    file = out / GENERATION_FILE
    own = read_json_object(file) if file.is_file() else {}
    found = read_json_object(source / GENERATION_FILE)
    added = {
        key: value
        for key, value in found.items()
        if key not in (*own, *NOT_SETTINGS) and not key.endswith(("_token_id", "_token_ids"))
    }
    if not added:
        return []
    write_atomically(file, (json.dumps(own | added, indent=2) + "\n").encode())
    return [file]


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    """Those of the settings that are finite numbers; top_k a whole one."""
    found = {field: fields.get(field) for field in SAMPLING_KEYS}
    return {
        field: value
        for field, value in found.items()
        if (type(value) is int and 0 <= value < MAX_VALUE)
        or (type(value) is float and math.isfinite(value) and field != "top_k")
    }
