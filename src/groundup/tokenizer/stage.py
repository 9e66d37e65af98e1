"""The stages 02-tokenizer (`train`) and 03-tokens (`encode`)."""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.recipe import RecipeView
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.tokenizer import parquet_documents, tokenizer_stats
from groundup.tokenizer.byte_fallback import add_byte_fallback, count_lost_characters, lacks_bytes
from groundup.tokenizer.encode_corpus import BATCH_BYTES, encode_split
from groundup.tokenizer.fertility import measure_fertility, validation_texts
from groundup.tokenizer.parquet_documents import sample_corpus
from groundup.tokenizer.pretrained import load_pretrained_tokenizer
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS, mask_token_names
from groundup.tokenizer.token_shards import TokenShard, is_complete
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import ALGORITHMS, extend_tokenizer

SPLITS = ("train", "validation")
MOST_FREQUENT = 10
THIS_TOKENIZER = "this vocabulary"


def train(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Train a tokenizer on the training text, or load or extend a pretrained one; writes a tokenizer folder.

    Raises UserError when there is no text, or too little of it for the vocabulary.
    """
    settings = recipe.tokenizer
    _check_input(inputs["data"])
    with machine.progress.task("reading text", unit="documents") as task:
        sample = sample_corpus(inputs["data"], settings.train_bytes, recipe.seed)
        tokenizer = _train_or_load(settings, _with_progress(sample.texts(), task))
    tokenizer.save(out)
    text = sample.example_text
    others = {
        name: load_pretrained_tokenizer(Path(file), settings.pretokenizer) for name, file in settings.compare.items()
    }
    return {
        **tokenizer_stats.vocabulary_stats(tokenizer),
        "algorithm": settings.algorithm,
        "pretokenizer": settings.pretokenizer,
        "train_bytes": sample.bytes,
        "corpus_bytes": sample.corpus_bytes,
        "sample": tokenizer_stats.tokenized_sample(tokenizer, text),
        "pretrained": settings.pretrained,
        "fertility": measure_fertility({THIS_TOKENIZER: tokenizer} | others, validation_texts(inputs["data"])),
    }


def encode(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Encode both splits; writes train.* and validation.*.

    Raises UserError when there is no training text.
    """
    _check_input(inputs["data"])
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    for split in SPLITS:
        if not is_complete(out, split):
            encode_split(inputs["tokenizer"], inputs["data"], split, out, machine)
    shards = {split: TokenShard(out / split) for split in SPLITS}
    if shards["train"].num_tokens == 0:
        raise UserError(f"{inputs['data']}: no training text", hint="relax the filters of [data], or add sources")
    used = np.bincount(shards["train"].tokens, minlength=tokenizer.vocab_size) > 0
    return {
        "vocab_size": tokenizer.vocab_size,
        "unused_tokens": int((~used).sum()),
        "lost_characters": _lost_characters(tokenizer, inputs["data"], machine),
        **{split: tokenizer_stats.shard_stats(shard) for split, shard in shards.items()},
    }


def _lost_characters(tokenizer: Tokenizer, data: Path, machine: Machine) -> dict[str, Any]:
    """Characters of both splits that the vocabulary cannot express, the most frequent ones, and the vocabulary size with all
    bytes. A second pass over the text, of vocabularies that lack bytes only.
    """
    if not lacks_bytes(tokenizer):
        return {"count": 0}
    files = [path for split in SPLITS for path in parquet_documents.parquet_files(data, split)]
    lost: Counter[str] = Counter()
    total = 0
    with machine.progress.task("checking characters", total=len(files), unit="files") as task:
        for path in files:
            for documents in parquet_documents.read_batches(path, BATCH_BYTES):
                lost += count_lost_characters(tokenizer, documents.texts)
                total += sum(map(len, documents.texts))
            task.advance()
    with suppress(UserError):
        size = add_byte_fallback(tokenizer).vocab_size
        return _describe_lost(lost, total) | {"vocab_size_with_bytes": size}
    return _describe_lost(lost, total)


def _describe_lost(lost: Counter[str], total: int) -> dict[str, Any]:
    return {"count": lost.total(), "characters": total, "most_frequent": dict(lost.most_common(MOST_FREQUENT))}


def _train_or_load(settings: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    size = settings.vocab_size
    mask_tokens = mask_token_names(settings.num_mask_tokens)
    if settings.pretrained is None:
        special = (*SPECIAL_TOKENS, *mask_tokens)
        return ALGORITHMS[settings.algorithm](texts, size, settings.pretokenizer, special)
    pretrained = load_pretrained_tokenizer(Path(settings.pretrained), settings.pretokenizer)
    if size < pretrained.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size = {size}: {settings.pretrained} has {pretrained.vocab_size} entries",
            hint=f"set tokenizer.vocab_size={pretrained.vocab_size} to use it unchanged, or more to extend it",
        )
    if missing := [name for name in mask_tokens if pretrained.token_id(name) not in pretrained.special_ids]:
        raise UserError(
            f"tokenizer.num_mask_tokens = {len(mask_tokens)}: {settings.pretrained} has no {missing[0]}",
            hint="use a tokenizer that has them, or train one",
        )
    if pretrained.eos_id is None:
        raise UserError(
            f"{settings.pretrained}: no eos token, which separates documents",
            hint="set eos_token in a tokenizer_config.json beside it",
        )
    if size > pretrained.vocab_size:
        return extend_tokenizer(pretrained, texts, size)
    deque(texts, maxlen=0)  # for the sample's statistics in the report
    return pretrained


def _with_progress(texts: Iterator[str], task: Any) -> Iterator[str]:
    for text in texts:
        yield text
        task.advance()


def _check_input(data: Path) -> None:
    if not parquet_documents.parquet_files(data, "train"):
        raise UserError(
            f"{data}/train: no parquet files", hint="build the data stage first: groundup run RECIPE --until data"
        )
