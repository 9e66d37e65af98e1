"""Model cards: name, licence and origin of a model, which follow it from import to export.

A card is the front matter of README.md, as on the Hugging Face Hub; in a GGUF file, the entries `general.*` that llama.cpp's
converter makes of it. Licence files beside a model are copied with it, and the recommended sampling, the field `sampling`.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from groundup.artifacts.directory import write_atomically
from groundup.interop.sampling_defaults import (
    copy_generation_settings,
    metadata_of_sampling,
    read_sampling_defaults,
    sampling_of_metadata,
    write_sampling_defaults,
)
from groundup.stages import STAGE_FOLDERS

README = "README.md"
LEGAL_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
MAX_CARD_BYTES = 1 << 16
MAX_FIELD_CHARACTERS = 4_000

GGUF_KEYS = {
    "name": "name", "author": "author", "version": "version", "organization": "organization", "description": "description",
    "finetune": "finetune", "basename": "basename", "size_label": "size_label", "license": "license",
    "license_name": "license.name", "license_link": "license.link", "url": "url", "doi": "doi", "repo_url": "repo_url",
    "language": "languages", "tags": "tags",
}  # fmt: skip
"""Field of a card -> entry of a GGUF file, under `general.`"""

ALIASES = {"model_name": "name", "model_author": "author", "model_creator": "author", "languages": "language"}
LISTS = ("language", "tags", "base_model")
INHERITED = ("license", "license_name", "license_link", "language")
"""Fields that hold for a model made of another one."""

ModelCard = dict[str, Any]


def read_model_card(path: Path) -> ModelCard:
    """The card of a model folder or .gguf file; at least its name, by default that of its run, folder or file.

    A stage of a run that began with another model ([base]) names that model, and has its licence.
    """
    if path.is_file():
        from groundup.interop.gguf.gguf_file import GGUFFile  # optional dependency

        return {"name": path.stem} | card_of_metadata(GGUFFile(path).metadata)
    path = path.resolve()
    sampling = {"sampling": found} if (found := _read_sampling(path)) else {}
    return _read_folder_card(path) | sampling


def _read_sampling(folder: Path) -> dict[str, float]:
    """Of a folder, or of the model that its run began with."""
    return next((found for place in _places(folder) if (found := read_sampling_defaults(place))), {})


def _places(folder: Path) -> tuple[Path, ...]:
    """A folder, and the folder of the model that its run began with."""
    base = folder.parent / STAGE_FOLDERS["base"]
    return (folder, base) if folder.name in STAGE_FOLDERS.values() else (folder,)


def _read_folder_card(path: Path) -> ModelCard:
    is_stage = path.name in STAGE_FOLDERS.values()
    if (own := _front_matter(path / README)) or not is_stage:
        return {"name": path.parent.name if is_stage else path.name} | own
    origin = _front_matter(path.parent / STAGE_FOLDERS["base"] / README)
    inherited = {field: origin[field] for field in INHERITED if field in origin}
    return {"name": path.parent.name} | inherited | ({"base_model": [origin["name"]]} if "name" in origin else {})


def write_card_files(source: Path, out: Path) -> list[Path]:
    """Write README.md and sampling of the model at `source` into the folder `out`, and copy its licence files. Returns the files.

    The README of a Hugging Face folder is copied as it is.
    """
    own, card = source / README, read_model_card(source)
    sampling = card.pop("sampling", {})
    if source.is_dir() and _front_matter(own):
        written = [Path(shutil.copyfile(own, out / README))]
    else:
        text = f"---\n{yaml.safe_dump(card, allow_unicode=True, sort_keys=False)}---\n\n# {card['name']}\n"
        write_atomically(out / README, text.encode())
        written = [out / README]
    written += write_sampling_defaults(sampling, out)
    if source.is_dir():
        for place in _places(source.resolve()):
            written += copy_generation_settings(place, out)
    return [*dict.fromkeys(written), *copy_legal_files(source, out)]


def copy_legal_files(source: Path, out: Path) -> list[Path]:
    """Copy licences and notices from beside a model, or beside the one that its run began with, into the folder `out`."""
    for place in _places(source.parent if source.is_file() else source.resolve()):
        found = {file for pattern in LEGAL_FILES for file in place.glob(pattern) if file.is_file()}
        if found:
            return [Path(shutil.copyfile(file, out / file.name)) for file in sorted(found)]
    return []


def card_of_metadata(metadata: Mapping[str, Any]) -> ModelCard:
    """The card in the metadata of a GGUF file."""
    card = {field: value for field, key in GGUF_KEYS.items() if (value := metadata.get(f"general.{key}"))}
    count = metadata.get("general.base_model.count")
    names = [
        _base_model_name(metadata, index) for index in range(count if isinstance(count, int) and count < 100 else 0)
    ]
    sampling = {"sampling": found} if (found := sampling_of_metadata(metadata)) else {}
    return _checked(card | {"base_model": [name for name in names if name]}) | sampling


def metadata_of_card(card: ModelCard) -> dict[str, Any]:
    """The entries `general.*` of a card in a GGUF file."""
    found = {f"general.{key}": card[field] for field, key in GGUF_KEYS.items() if field in card}
    found |= metadata_of_sampling(card.get("sampling", {}))
    base_models: list[str] = card.get("base_model", [])
    if base_models:
        found["general.base_model.count"] = len(base_models)
    for index, base in enumerate(base_models):
        organization, _, name = base.rpartition("/")
        found[f"general.base_model.{index}.name"] = name
        if organization:
            found[f"general.base_model.{index}.organization"] = organization
    return found


def _base_model_name(metadata: Mapping[str, Any], index: int) -> str:
    parts = (metadata.get(f"general.base_model.{index}.{key}") for key in ("organization", "name"))
    return "/".join(part for part in parts if isinstance(part, str))


def _front_matter(path: Path) -> ModelCard:
    """The known fields of a README's front matter; {} without a readable one."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        head = file.read(MAX_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    begin, _, rest = head.partition("---\n")
    matter, end, _ = rest.partition("\n---")
    if begin.strip("\ufeff\n ") or not end:
        return {}
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(matter, Loader=yaml.CBaseLoader)):
            return {}  # a few lines would become gigabytes
        fields = yaml.load(matter, Loader=yaml.CBaseLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    named = {ALIASES.get(name, name): value for name, value in fields.items()}
    return _checked({field: named[field] for field in (*GGUF_KEYS, "base_model") if field in named})


def _checked(card: ModelCard) -> ModelCard:
    """The fields that have the right type, texts in one line of bounded length."""
    checked: ModelCard = {}
    for field, value in card.items():
        if field in LISTS:
            texts = [_one_line(item) for item in _as_list(value) if isinstance(item, str) and item.strip()]
            if texts:
                checked[field] = texts
        elif isinstance(value, str) and value.strip():
            checked[field] = _one_line(value)
    return checked


def _as_list(value: Any) -> Iterable[Any]:
    return value[:100] if isinstance(value, list) else [value]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_FIELD_CHARACTERS]
