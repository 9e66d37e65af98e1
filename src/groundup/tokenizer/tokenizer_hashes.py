"""Content hashes of the tokenizers and token shards that a recipe names and no stage makes."""

import hashlib
from pathlib import Path
from typing import Any

from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer.pretrained import tokenizer_files
from groundup.tokenizer.token_shards import TokenShard


def hash_tokenizers(section: TokenizerConfig, machine: Machine) -> dict[str, Any]:
    """SHA-256 of each file of the tokenizers that the recipe names. Raises UserError when one does not exist."""
    named = [*section.compare.values(), *([section.pretrained] if section.pretrained else [])]
    return {f"{name}: {file.name}": hash_file(file) for name in named for file in tokenizer_files(Path(name))}


def hash_shards(section: TrainConfig, machine: Machine) -> dict[str, Any]:
    """SHA-256 of the sidecar of each split of `train.token_shards`. Raises UserError when one does not exist."""
    if section.token_shards is None:
        return {}
    named = (TokenShard(f"{section.token_shards}/{split}", machine.cache_dir) for split in ("train", "validation"))
    return {shard.base: hashlib.sha256(shard.sidecar).hexdigest() for shard in named}
