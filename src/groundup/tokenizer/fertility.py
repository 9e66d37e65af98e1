"""Fertility of tokenizers on held-out text, by source and by language: bytes per token and fraction of split words.

Languages with few bytes per token cost their users more tokens, time and money (Petrov et al. 2023, "Language Model
Tokenizers Introduce Unfairness Between Languages").
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from groundup.data.clean.language import detect_language
from groundup.tokenizer import parquet_documents
from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.tokenizer import Tokenizer

MAX_BYTES_PER_SOURCE = 1_000_000
"""Bytes of text of each source at most."""

MAX_FILES = 16
"""Files of held-out text at most."""

TextGroups = dict[str, dict[str, list[str]]]


def measure_fertility(tokenizers: Mapping[str, Tokenizer], documents: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Statistics of each of `tokenizers` on documents, which are pairs of source and text.

    Returns {"source" | "language": {name: {"documents", "bytes", "words", "bytes_per_token": {tokenizer: ...},
    "split_word_fraction": {tokenizer: ...}}}}.

    >>> measure_fertility({"mine": tokenizer, "GPT-2": gpt2}, [("web", text) for text in texts])
    """
    groups: TextGroups = {"source": defaultdict(list), "language": defaultdict(list)}
    encoders = {name: BatchEncoder(tokenizer) for name, tokenizer in tokenizers.items()}
    for source, text in documents:
        groups["source"][source].append(text)
        groups["language"][detect_language(text)[0]].append(text)
    return {
        by: {name: _measure(encoders, texts) for name, texts in sorted(members.items(), key=lambda item: -len(item[1]))}
        for by, members in groups.items()
    }


def _measure(encoders: Mapping[str, BatchEncoder], texts: list[str]) -> dict[str, Any]:
    size = sum(len(text.encode()) for text in texts)
    words = Counter(word for text in texts for word in text.split())
    total = sum(words.values())
    result: dict[str, Any] = {"documents": len(texts), "bytes": size, "words": total}
    result |= {"bytes_per_token": {}, "split_word_fraction": {}}
    for name, encoder in encoders.items():
        tokens = len(encoder.encode_flat(texts)[0])
        _, lengths = encoder.encode_flat([f" {word}" for word in words])
        split = sum(count for length, count in zip(lengths, words.values(), strict=True) if length > 1)
        result["bytes_per_token"][name] = round(size / max(tokens, 1), 4)
        result["split_word_fraction"][name] = round(split / max(total, 1), 4)
    return result


def validation_texts(data: Path) -> Iterator[tuple[str, str]]:
    """Source and text of held-out documents, up to MAX_BYTES_PER_SOURCE of each source."""
    taken: Counter[str] = Counter()
    for path in parquet_documents.parquet_files(data, "validation")[:MAX_FILES]:
        for documents in parquet_documents.read_batches(path, MAX_BYTES_PER_SOURCE):
            for source, text, size in zip(documents.sources, documents.texts, documents.sizes, strict=True):
                if size and taken[source] < MAX_BYTES_PER_SOURCE:
                    taken[source] += size
                    yield source, text
