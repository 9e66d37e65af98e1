"""What a training depends on that its run did not make: token shards from elsewhere."""

import hashlib
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.recipe.train import TrainSection
from groundup.tokenizer.shards import TokenShard


def identity(section: TrainSection, machine: Machine) -> dict[str, Any]:
    """SHA-256 of the sidecar of each split, where `train.shards` names some. Raises UserError where there are none."""
    if section.shards is None:
        return {}
    shards = (TokenShard(f"{section.shards}/{split}", machine.cache) for split in ("train", "validation"))
    return {shard.base: hashlib.sha256(shard.sidecar).hexdigest() for shard in shards}
