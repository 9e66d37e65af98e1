"""The two stages of this chapter: `train` learns the vocabulary (02-tokenizer), `encode` writes the tokens (03-tokens)."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.tokenizer import corpus, facts
from groundup.tokenizer.compare import fit
from groundup.tokenizer.encode import encode_split
from groundup.tokenizer.foreign import open_foreign
from groundup.tokenizer.sample import draw
from groundup.tokenizer.shards import TokenShard, is_complete
from groundup.tokenizer.special import SPECIAL_TOKENS, mask_tokens
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.train import ALGORITHMS, extend

SPLITS = ("train", "validation")
OWN = "this vocabulary"


def train(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Learn a vocabulary from the training text, or take one; writes tokenizer.json and tokenizer_config.json.

    Raises UserError when there is no text, or too little of it for the vocabulary.
    """
    settings = recipe.tokenizer
    _check_input(inputs["data"])
    with machine.progress.task("reading text", unit="documents") as task:
        sample = draw(inputs["data"], settings.sample_bytes, recipe.seed)
        tokenizer = _tokenizer(settings, _counted(sample.texts(), task))
    tokenizer.save(out)
    text = sample.first_text
    others = {name: open_foreign(Path(file), settings.pattern) for name, file in settings.compare.items()}
    return {
        **facts.vocabulary_facts(tokenizer),
        "algorithm": settings.algorithm,
        "pattern": settings.pattern,
        "sample_bytes": sample.bytes,
        "corpus_bytes": sample.corpus_bytes,
        "sample": facts.sample_split(tokenizer, text),
        "file": settings.file,
        "fit": fit({OWN: tokenizer} | others, inputs["data"]),
    }


def encode(recipe: Any, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Encode both splits; writes train.* and validation.*.

    Raises UserError when there is no text to train on.
    """
    _check_input(inputs["data"])
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    for split in SPLITS:
        if not is_complete(out, split):
            encode_split(inputs["tokenizer"], inputs["data"], split, out, machine)
    shards = {split: TokenShard(out / split) for split in SPLITS}
    if shards["train"].num_tokens == 0:
        raise UserError(
            f"{inputs['data']}: no training text", hint="relax the filters of [data], or add sources"
        )
    used = np.bincount(shards["train"].tokens, minlength=tokenizer.vocab_size) > 0
    return {
        "vocab_size": tokenizer.vocab_size,
        "unused_tokens": int((~used).sum()),
        **{split: facts.shard_facts(shard) for split, shard in shards.items()},
    }


def _tokenizer(settings: Any, texts: Iterator[str]) -> Tokenizer:
    size = settings.vocab_size
    masks = mask_tokens(settings.mask_tokens)
    if settings.file is None:
        special = (*SPECIAL_TOKENS, *masks)
        return ALGORITHMS[settings.algorithm](texts, size, settings.pattern, special)
    taken = open_foreign(Path(settings.file), settings.pattern)
    if size < taken.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size = {size}: {settings.file} has {taken.vocab_size} entries",
            hint=f"set tokenizer.vocab_size={taken.vocab_size} to take it as it is, or more to extend it",
        )
    if missing := [name for name in masks if taken.token_id(name) not in taken.special_ids]:
        raise UserError(
            f"tokenizer.mask_tokens = {len(masks)}: {settings.file} has no {missing[0]}",
            hint="take a tokenizer that has them, or learn one",
        )
    if taken.eos_id is None:
        raise UserError(
            f"{settings.file}: it names no end of text, which divides documents",
            hint="name its eos_token in a tokenizer_config.json beside it",
        )
    if size > taken.vocab_size:
        return extend(taken, texts, size)
    deque(texts, maxlen=0)  # the sample is read all the same: the report tells of it
    return taken


def _counted(texts: Iterator[str], task: Any) -> Iterator[str]:
    for text in texts:
        yield text
        task.advance()


def _check_input(data: Path) -> None:
    if not corpus.files(data, "train"):
        raise UserError(
            f"{data}/train: no parquet files",
            hint="build the data stage first: groundup run RECIPE --until data",
        )
