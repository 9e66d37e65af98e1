"""Repeated passages: paragraphs, or any n-gram of words (Lee et al. 2021, arXiv:2107.06499).

Each text gives keys in order: one per paragraph, or one per word for the n-gram that starts there. A passage whose
key occurred earlier in the corpus is removed; the first occurrence stays.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.ngrams import UNSPACED, ngram_hashes, separate_characters, word_hashes
from groundup.data.dedup.document_keys import iter_key_chunks, select_part
from groundup.data.dedup.union_find import Keys, repeated_pairs
from groundup.data.stable_hash import hash_text
from groundup.data.work_files import ArrayWriter, open_array
from groundup.recipe.data_config import DataConfig, FileKind

WORD = re.compile(r"\S+")
WORD_OR_CHARACTER = re.compile(rf"{UNSPACED.pattern}|[^\s{UNSPACED.pattern.strip('[]')}]+")
PARAGRAPH = re.compile(r"\n\s*\n|\n")
PASSAGE_KINDS = ("paragraphs", "ngrams")


class PassageWriter:
    """Writes the passage keys of one work unit, for the enabled kinds: STEM.KIND (keys in order) and
    STEM.KIND.lengths (keys per document).
    """

    def __init__(self, config: DataConfig, source_kind: FileKind, stem: Path):
        self.config = config
        kinds = ("auto", *config.substring_dedup.kinds)
        enabled = {
            "paragraphs": config.exact_dedup.paragraphs,
            "ngrams": config.substring_dedup.enabled and source_kind in kinds,
        }
        self.files = {
            kind: [ArrayWriter(stem.with_suffix(suffix)) for suffix in (f".{kind}", f".{kind}.lengths")]
            for kind in PASSAGE_KINDS
            if enabled[kind]
        }

    def add(self, text: str, kind: str) -> None:
        """Append one document of a kind of source."""
        has_ngrams = kind in self.config.substring_dedup.kinds
        for passages, (keys, lengths) in self.files.items():
            if passages == "paragraphs":
                found = paragraph_keys(text, self.config.exact_dedup.min_paragraph_words)
            else:
                found = ngram_keys(text, self.config.substring_dedup.min_words)
                found = found if has_ngrams else numpy.zeros_like(found)  # 0 is never compared
            keys.add(found)
            lengths.add(numpy.array([len(found)], dtype=numpy.int64))

    def close(self) -> None:
        for pair in self.files.values():
            for file in pair:
                file.close()


def paragraph_keys(text: str, min_words: int) -> Keys:
    """One key per line or paragraph; 0 (never compared) if it has fewer than `min_words` words."""
    parts = PARAGRAPH.split(text)
    return numpy.array(
        [hash_text(part) | 1 if len(separate_characters(part).split()) >= min_words else 0 for part in parts],
        dtype=numpy.uint64,
    )


def remove_paragraphs(text: str, repeated: NDArray[numpy.bool_]) -> str:
    """The text without the flagged paragraphs and the separators behind them."""
    ends = [match.span() for match in PARAGRAPH.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(end for _, end in ends), len(text)]
    kept = [text[start:stop] for start, stop, drop in zip(starts, stops, repeated, strict=True) if not drop]
    return "".join(kept).strip("\n")


def ngram_keys(text: str, size: int) -> Keys:
    """One key per n-gram of `size` words."""
    return ngram_hashes(word_hashes([text[start:end] for start, end in _word_spans(text)]), size)


def _word_spans(text: str) -> list[tuple[int, int]]:
    """Words, and single characters of scripts without spaces."""
    is_spaced = text.isascii() or not UNSPACED.search(text)
    return [match.span() for match in (WORD if is_spaced else WORD_OR_CHARACTER).finditer(text)]


def remove_ngrams(text: str, repeated: NDArray[numpy.bool_], size: int) -> str:
    """The text without the words of flagged n-grams."""
    spans = _word_spans(text)
    removed = numpy.zeros(len(spans), dtype=bool)
    for offset in range(size):
        removed[offset : offset + len(repeated)] |= repeated
    kept, position = [], 0
    for (start, end), drop in zip(spans, removed, strict=True):
        if drop:
            kept.append(text[position:start])
            position = end
    return re.sub(r"[ \t]{2,}", " ", "".join([*kept, text[position:]])).strip()


def flag_repeats(files: list[Path], parts: int) -> None:
    """For each file of keys NAME write NAME.repeats: true where the key occurred earlier in the corpus."""
    keys = [open_array(file, numpy.uint64) for file in files]
    bases = numpy.concatenate([[0], numpy.cumsum([len(row) for row in keys])]).astype(numpy.int64)
    targets = [file.with_name(f"{file.name}.repeats") for file in files]
    for path, row in zip(targets, keys, strict=True):
        with path.open("wb") as file:
            file.write(bytes(len(row)))  # no hole: writing to the map on a full disk would kill the process (SIGBUS)
    for part in range(parts):
        chunks = (
            chunk for base, row in zip(bases.tolist(), keys, strict=False) for chunk in iter_key_chunks(base, row)
        )
        _, others = repeated_pairs(*select_part(chunks, part, parts))
        others.sort()
        bounds = numpy.searchsorted(others, bases)
        for path, base, first, last in zip(targets, bases, bounds, bounds[1:], strict=False):
            if first < last:
                numpy.memmap(path, bool, mode="r+")[others[first:last] - base] = True


def repeat_flags(stem: Path, kind: str) -> Iterator[NDArray[numpy.bool_]] | None:
    """Flags of each document of a unit, in order; None if this kind was not compared."""
    path = stem.with_suffix(f".{kind}.repeats")
    return _iter_flags(path, stem.with_suffix(f".{kind}.lengths")) if path.exists() else None


def _iter_flags(path: Path, lengths: Path) -> Iterator[NDArray[numpy.bool_]]:
    flags, start = open_array(path, numpy.bool_), 0
    for length in open_array(lengths, numpy.int64).tolist():
        yield numpy.array(flags[start : start + length])
        start += length
