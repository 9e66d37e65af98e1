"""What stages depend on that their run did not make: a tokenizer or token shards from elsewhere."""

import hashlib
from pathlib import Path
from typing import Any

from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.recipe.tokenizer import TokenizerSection
from groundup.recipe.train import TrainSection
from groundup.tokenizer.foreign import files_of
from groundup.tokenizer.shards import TokenShard


def tokenizers(section: TokenizerSection, machine: Machine) -> dict[str, Any]:
    """SHA-256 of each file of the tokenizers that the recipe names. Raises UserError where there is none."""
    named = [*section.compare.values(), *([section.file] if section.file else [])]
    return {f"{name}: {file.name}": hash_file(file) for name in named for file in files_of(Path(name))}


def shards(section: TrainSection, machine: Machine) -> dict[str, Any]:
    """SHA-256 of the sidecar of each split, where `train.shards` names some. Raises UserError where there are none."""
    if section.shards is None:
        return {}
    named = (TokenShard(f"{section.shards}/{split}", machine.cache) for split in ("train", "validation"))
    return {shard.base: hashlib.sha256(shard.sidecar).hexdigest() for shard in named}
