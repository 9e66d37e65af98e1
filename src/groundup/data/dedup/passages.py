"""Passages that stood before: paragraphs as they are, or any run of words (Lee et al. 2021,
arXiv:2107.06499).

Each text gives keys in order: one a paragraph, or one a word, of the run that begins there. A key seen at an
earlier place of the corpus marks its passage for cutting; the first one always stays.
"""

import hashlib
import re
from pathlib import Path

import numpy
from numpy.typing import NDArray

from groundup.data.clean.words import run_hashes
from groundup.data.dedup.clusters import Keys, repeated
from groundup.data.dedup.keys import collect
from groundup.data.rows import save_array
from groundup.recipe.data import DataSection

WORD = re.compile(r"\S+")
PARAGRAPH = re.compile(r"\n\s*\n|\n")
KINDS = ("paragraphs", "runs")


class PassageWriter:
    """Collects the keys of all passages of a unit, for the kinds of passages that the recipe compares."""

    def __init__(self, section: DataSection):
        self.section = section
        self.found: dict[str, list[Keys]] = {}

    def add(self, text: str) -> None:
        """The next document."""
        if self.section.exact.paragraphs:
            keys = paragraph_keys(text, self.section.exact.min_paragraph_words)
            self.found.setdefault("paragraphs", []).append(keys)
        if self.section.substring.enabled:
            self.found.setdefault("runs", []).append(run_keys(text, self.section.substring.words))

    def save(self, stem: Path) -> None:
        """STEM.KIND.npy: all keys in order; STEM.KIND.lengths.npy: how many each document has."""
        for kind, keys in self.found.items():
            save_array(stem.with_suffix(f".{kind}.npy"), numpy.concatenate(keys))
            lengths = numpy.array([len(part) for part in keys])
            save_array(stem.with_suffix(f".{kind}.lengths.npy"), lengths)


def paragraph_keys(text: str, min_words: int) -> Keys:
    """A key for each line or paragraph; 0 for those of fewer words, which are never compared."""
    return numpy.array(
        [_hash(part) if len(part.split()) >= min_words else 0 for part in PARAGRAPH.split(text)],
        dtype=numpy.uint64,
    )


def cut_paragraphs(text: str, marked: NDArray[numpy.bool_]) -> str:
    """The text without the marked paragraphs, and without the space behind each of them."""
    ends = [match.span() for match in PARAGRAPH.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(end for _, end in ends), len(text)]
    kept = [text[start:stop] for start, stop, cut in zip(starts, stops, marked, strict=True) if not cut]
    return "".join(kept).strip("\n")


def run_keys(text: str, length: int) -> Keys:
    """A key for each run of `length` words, at the run's first word."""
    known: dict[str, int] = {}
    numbers = [
        known[word] if word in known else known.setdefault(word, _hash(word)) for word in WORD.findall(text)
    ]
    return run_hashes(numpy.array(numbers, dtype=numpy.uint64), length)


def cut_runs(text: str, marked: NDArray[numpy.bool_], length: int) -> str:
    """The text without the words of marked runs."""
    spans = [match.span() for match in WORD.finditer(text)]
    gone = numpy.zeros(len(spans), dtype=bool)
    for offset in range(length):
        gone[offset : offset + len(marked)] |= marked
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


def mark_repeats(files: list[Path], parts: int) -> None:
    """For each file of keys NAME.npy write NAME.marks.npy: true where the key stood at an earlier place of
    the corpus.
    """
    lengths = [len(numpy.load(file, mmap_mode="r")) for file in files]
    bases = numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int64)
    marked = [file.with_suffix(".marks.npy") for file in files]
    for path, length in zip(marked, lengths, strict=True):
        numpy.save(path, numpy.zeros(length, dtype=bool))
    for part in range(parts):
        arrays = (numpy.load(file, mmap_mode="r") for file in files)
        _, others = repeated(*collect(zip(bases.tolist(), arrays, strict=False), part, parts))
        others.sort()
        cuts = numpy.searchsorted(others, bases)
        for path, base, first, last in zip(marked, bases, cuts, cuts[1:], strict=False):
            if first < last:
                numpy.load(path, mmap_mode="r+")[others[first:last] - base] = True
