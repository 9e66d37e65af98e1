"""Passages that stood before: paragraphs as they are, or any run of words (Lee et al. 2021,
arXiv:2107.06499).

Each text gives keys in order: one a paragraph, or one a word, of the run that begins there. A key seen at an
earlier place of the corpus marks its passage for cutting; the first one always stays.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.ngrams import ngram_hashes
from groundup.data.dedup.document_keys import iter_key_chunks, select_part
from groundup.data.dedup.union_find import Keys, repeated_pairs
from groundup.data.work_files import ArrayWriter, open_array
from groundup.recipe.data_config import DataConfig, SourceKind

WORD = re.compile(r"\S+")
PARAGRAPH = re.compile(r"\n\s*\n|\n")
PASSAGE_KINDS = ("paragraphs", "ngrams")


class PassageWriter:
    """Writes the keys of all passages of a unit, for the kinds of passages that the recipe compares: STEM.KIND, all
    keys in order, and STEM.KIND.lengths, how many each document has.
    """

    def __init__(self, section: DataConfig, kind: SourceKind, stem: Path):
        self.section = section
        wanted = (
            section.exact_dedup.paragraphs,
            section.substring_dedup.enabled and kind in section.substring_dedup.kinds,
        )
        self.files = {
            kind: (
                ArrayWriter(stem.with_suffix(f".{kind}")),
                ArrayWriter(stem.with_suffix(f".{kind}.lengths")),
            )
            for kind, is_wanted in zip(PASSAGE_KINDS, wanted, strict=True)
            if is_wanted
        }

    def add(self, text: str) -> None:
        """The next document."""
        for kind, (keys, lengths) in self.files.items():
            found = (
                paragraph_keys(text, self.section.exact_dedup.min_paragraph_words)
                if kind == "paragraphs"
                else ngram_keys(text, self.section.substring_dedup.min_words)
            )
            keys.add(found)
            lengths.add(numpy.array([len(found)], dtype=numpy.int64))

    def close(self) -> None:
        for pair in self.files.values():
            for file in pair:
                file.close()


def paragraph_keys(text: str, min_words: int) -> Keys:
    """A key for each line or paragraph; 0 for those of fewer words, which are never compared."""
    return numpy.array(
        [_hash(part) if len(part.split()) >= min_words else 0 for part in PARAGRAPH.split(text)],
        dtype=numpy.uint64,
    )


def remove_paragraphs(text: str, repeated: NDArray[numpy.bool_]) -> str:
    """The text without the marked paragraphs, and without the space behind each of them."""
    ends = [match.span() for match in PARAGRAPH.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(end for _, end in ends), len(text)]
    kept = [text[start:stop] for start, stop, cut in zip(starts, stops, repeated, strict=True) if not cut]
    return "".join(kept).strip("\n")


def ngram_keys(text: str, length: int) -> Keys:
    """A key for each run of `length` words, at the run's first word."""
    known: dict[str, int] = {}
    found = [
        known[word] if word in known else known.setdefault(word, _hash(word)) for word in WORD.findall(text)
    ]
    return ngram_hashes(numpy.array(found, dtype=numpy.uint64), length)


def remove_ngrams(text: str, repeated: NDArray[numpy.bool_], length: int) -> str:
    """The text without the words of marked runs."""
    spans = [match.span() for match in WORD.finditer(text)]
    gone = numpy.zeros(len(spans), dtype=bool)
    for offset in range(length):
        gone[offset : offset + len(repeated)] |= repeated
    kept, position = [], 0
    for (start, end), cut in zip(spans, gone, strict=True):
        if cut:
            kept.append(text[position:start])
            position = end
    return re.sub(r"[ \t]{2,}", " ", "".join([*kept, text[position:]])).strip()


def _hash(text: str) -> int:
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
        )
        | 1
    )


def flag_repeats(files: list[Path], parts: int) -> None:
    """For each file of keys NAME write NAME.marks: true where the key stood at an earlier place of the corpus."""
    keys = [open_array(file, numpy.uint64) for file in files]
    bases = numpy.concatenate([[0], numpy.cumsum([len(row) for row in keys])]).astype(numpy.int64)
    marked = [file.with_name(f"{file.name}.repeats") for file in files]
    for path, row in zip(marked, keys, strict=True):
        with path.open("wb") as file:
            file.truncate(len(row))
    for part in range(parts):
        found = (
            piece
            for base, row in zip(bases.tolist(), keys, strict=False)
            for piece in iter_key_chunks(base, row)
        )
        _, others = repeated_pairs(*select_part(found, part, parts))
        others.sort()
        cuts = numpy.searchsorted(others, bases)
        for path, base, first, last in zip(marked, bases, cuts, cuts[1:], strict=False):
            if first < last:
                numpy.memmap(path, bool, mode="r+")[others[first:last] - base] = True


def repeat_flags(stem: Path, kind: str) -> Iterator[NDArray[numpy.bool_]] | None:
    """The marks of each document of a unit, in order; None where nothing was compared."""
    path = stem.with_suffix(f".{kind}.repeats")
    return _iter_flags(path, stem.with_suffix(f".{kind}.lengths")) if path.exists() else None


def _iter_flags(path: Path, lengths: Path) -> Iterator[NDArray[numpy.bool_]]:
    marked, place = open_array(path, numpy.bool_), 0
    for length in open_array(lengths, numpy.int64).tolist():
        yield numpy.array(marked[place : place + length])
        place += length
