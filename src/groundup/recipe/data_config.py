"""[data]: which text, and what must not pass."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import BaseConfig, knob

SourceKind = Literal[
    "wikipedia", "books", "web", "code", "text", "markdown", "rst", "html", "jsonl", "table", "huggingface"
]
PROSE_KINDS: tuple[SourceKind, ...] = (
    "wikipedia", "web", "text", "markdown", "html", "jsonl", "table", "huggingface",
)  # fmt: skip
"""Where rules made for web pages judge well. Not books: verse and plays break them on every page."""
TEXT_KINDS: tuple[SourceKind, ...] = (*PROSE_KINDS, "rst", "books")
"""Everything but code."""


class PackageConfig(BaseConfig):
    """A pinned package of the Python package index, fetched with the machine's own package settings."""

    name: str = knob(meaning="the package's name", pattern="^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    version: str = knob(meaning="the exact version", pattern="^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")
    distribution: Literal["sdist", "wheel"] = knob("sdist", "which of its archives")
    sha256: str | None = knob(None, "of the archive; checked when given", pattern="^[0-9a-f]{64}$")


# Knobs with exclude=True say how the work is done, not what comes out: they are no part of what the run is.


class FilesConfig(BaseConfig):
    """Files that hold documents, wherever they are."""

    name: str = knob(meaning="how it is called in tables and reports", pattern="^[a-z0-9][a-z0-9_-]*$")
    kind: SourceKind = knob(
        meaning="how its files are read: a MediaWiki dump; books (text, EPUB); a web crawl (WARC, WET); code; plain text; "
        "Markdown; reStructuredText; HTML pages; JSON lines; a table (Parquet, CSV, Arrow); a Hugging Face dataset folder"
    )
    path: str | None = knob(
        None,
        "files: a path with globs, an https:// address, anything fsspec reads, or commoncrawl://SNAPSHOT/warc; "
        "in a package: its members, with globs",
    )
    package: PackageConfig | None = knob(None, "take `path` from this package's archive")
    members: str | None = knob(None, "which members of archives to read, with globs; default: all")
    sha256: str | None = knob(
        None, "of the one file that `path` names; checked when given", pattern="^[0-9a-f]{64}$"
    )
    text_column: str = knob("text", "in tables and JSON lines: where the text stands")

    @model_validator(mode="after")
    def _check_location(self) -> "FilesConfig":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        return self


class SourceConfig(FilesConfig):
    """One place that text comes from."""

    epochs: float = knob(1.0, "epochs of this source in one pass over the mix", gt=0)
    target_tokens: float | None = knob(
        None, "instead of a weight: millions of tokens of it in one pass, at 4 bytes a token", gt=0
    )
    file_fraction: float = knob(
        1.0,
        "share of its files to read, chosen by a stable hash of their names and the seed; at least one",
        gt=0,
        le=1,
    )
    keep_downloads: bool = knob(
        True, "keep what was fetched for later runs; false removes each file once it was read", exclude=True
    )
    clean: bool = knob(True, "clean it; false takes it as it is, but for deduplication")


class LanguageConfig(BaseConfig):
    """Which natural languages pass; code is not asked."""

    languages: tuple[str, ...] = knob(("en",), "ISO 639 codes of the languages to keep; none: all")
    threshold: float = knob(0.5, "least probability that a document is in one of them", ge=0, le=1)


class GopherQualityConfig(BaseConfig):
    """Rae et al. 2021, table A1: what a text written by people looks like."""

    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, "the kinds of sources that it judges; none: off")
    min_words: int = knob(50, "least words", ge=0)
    max_words: int = knob(100_000, "most words", ge=1)
    min_mean_word_length: float = knob(3.0, "least mean word length in characters", ge=0)
    max_mean_word_length: float = knob(10.0, "greatest mean word length in characters", ge=0)
    max_symbol_ratio: float = knob(0.1, "most '#' or '...' for each word", ge=0)
    max_bullet_lines_ratio: float = knob(0.9, "greatest share of lines that begin with a bullet", ge=0, le=1)
    max_ellipsis_lines_ratio: float = knob(0.3, "greatest share of lines that end in an ellipsis", ge=0, le=1)
    min_alphabetic_words_ratio: float = knob(0.8, "least share of words with a letter in them", ge=0, le=1)
    min_stop_words: int = knob(2, "least different words of: the, be, to, of, and, that, have, with", ge=0)


class GopherRepetitionConfig(BaseConfig):
    """Rae et al. 2021, table A1: a text that says the same again and again."""

    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, "the kinds of sources that it judges; none: off")
    max_duplicate_lines_ratio: float = knob(
        0.3, "greatest share of lines, or paragraphs, that were there before", ge=0, le=1
    )
    max_duplicate_line_characters_ratio: float = knob(0.2, "greatest share of characters in them", ge=0, le=1)
    max_top_ngram_ratios: tuple[float, float, float] = knob(
        (0.20, 0.18, 0.16), "greatest share of characters in the most frequent run of 2, 3, 4 words"
    )
    max_duplicate_ngram_ratios: tuple[float, float, float, float, float, float] = knob(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), "greatest share of characters in repeated runs of 5 to 10 words"
    )


class C4Config(BaseConfig):
    """Raffel et al. 2020: only lines that are sentences, only pages with some of them."""

    kinds: tuple[SourceKind, ...] = knob((), "the kinds of sources that it cleans; none: off")
    min_line_words: int = knob(3, "least words in a line", ge=0)
    max_word_length: int = knob(1_000, "most characters in a word of a line that stays", ge=1)
    min_sentences: int = knob(5, "least sentences in a page", ge=0)


class FineWebConfig(BaseConfig):
    """Penedo et al. 2024: three rules that helped most, over Gopher's and C4's."""

    kinds: tuple[SourceKind, ...] = knob(("web",), "the kinds of sources that it judges; none: off")
    min_punctuated_lines_ratio: float = knob(0.12, "least share of lines that end a sentence", ge=0, le=1)
    short_line_length: int = knob(30, "most characters of a short line", ge=0)
    max_short_lines_ratio: float = knob(0.67, "greatest share of short lines", ge=0, le=1)
    max_duplicate_characters_ratio: float = knob(
        0.01, "greatest share of characters in repeated lines", ge=0, le=1
    )
    max_newlines_per_word: float = knob(0.3, "most line ends for each word", ge=0)


class CodeFilterConfig(BaseConfig):
    """Kocetkov et al. 2022 (The Stack) and Li et al. 2023 (StarCoder): minified, encoded and generated files."""

    kinds: tuple[SourceKind, ...] = knob(("code",), "the kinds of sources that it judges; none: off")
    max_line_length: int = knob(1_000, "most characters in a line", ge=1)
    max_mean_line_length: float = knob(100.0, "most characters in a line on average", gt=0)
    min_alphanumeric_ratio: float = knob(0.25, "least share of letters and digits", ge=0, le=1)
    drop_generated: bool = knob(True, "drop files whose first lines say that a program wrote them")
    licenses: tuple[str, ...] = knob(
        (),
        "SPDX names of the licenses to keep, such as MIT; permissive: the usual ones that ask for little; none: all files, "
        "those without a known license too",
    )


class PiiConfig(BaseConfig):
    """Personal data and secrets, replaced by tokens such as <email>."""

    emails: bool = knob(True, "e-mail addresses")
    phones: bool = knob(True, "telephone numbers in international form, or with a word that says so")
    ips: bool = knob(True, "public IP addresses, of version 4 and 6")
    cards: bool = knob(True, "payment card numbers (Luhn's checksum must be right)")
    id_numbers: bool = knob(
        True, "identity and account numbers with a right checksum: IBAN, CPF, DNI; and US social security"
    )
    secrets: bool = knob(True, "keys and tokens of services, private keys, passwords in addresses")


class WordListConfig(BaseConfig):
    """Pages that use the words of a list too often are dropped: toxic, adult, spam."""

    name: str = knob(meaning="the reason in tables and reports", pattern="^[a-z0-9][a-z0-9_-]*$")
    path: str = knob(meaning="a text file: one word or phrase a line")
    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, "the kinds of sources that it judges")
    max_hits: int = knob(2, "most occurrences that are always let pass", ge=0)
    max_words_ratio: float = knob(0.005, "greatest share of the words", ge=0, le=1)


class ClassifierConfig(BaseConfig):
    """A small classifier of good and bad text, trained on the user's own examples (after Joulin et al. 2016)."""

    positive: tuple[FilesConfig, ...] = knob(meaning="examples of what to keep", min_length=1)
    negative: tuple[FilesConfig, ...] = knob(meaning="examples of what to drop", min_length=1)
    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, "the kinds of sources that it judges")
    threshold: float = knob(0.5, "least probability of being good", ge=0, le=1)
    max_examples_per_class: int = knob(20_000, "documents of each side that are learnt from", ge=1)


class ExactDedupConfig(BaseConfig):
    """Equal texts: case, punctuation and spaces aside."""

    enabled: bool = knob(True, "drop documents whose text was seen before")
    paragraphs: bool = knob(False, "and take paragraphs out that stood in an earlier document")
    min_paragraph_words: int = knob(
        8, "least words of a paragraph that is compared: short ones repeat for good reasons", ge=1
    )


class MinHashDedupConfig(BaseConfig):
    """Near duplicates: Broder 1997, with the banding of Leskovec et al., Mining of Massive Datasets, chapter
    3.
    """

    action: Literal["drop", "keep_together", "off"] = knob(
        "drop",
        "drop near duplicates; keep them, all on one side of the train/validation split; off: do not look for them",
    )
    ngram_size: int = knob(5, "words in a shingle", ge=1)
    num_bands: int = knob(14, "bands; a pair that agrees in one of them is a candidate", ge=1)
    hashes_per_band: int = knob(
        8,
        "hashes in a band; half of the pairs of Jaccard similarity (1 / bands) ** (1 / rows) are found",
        ge=1,
    )
    threshold: float = knob(
        0.0,
        "least similarity of the whole signatures of a candidate pair; 0 takes every candidate, as is usual",
        ge=0,
        le=1,
    )


class SubstringDedupConfig(BaseConfig):
    """Lee et al. 2021: long passages that stood before, within a document or in another, are cut out."""

    enabled: bool = knob(False, "cut repeated passages")
    kinds: tuple[SourceKind, ...] = knob(
        TEXT_KINDS, "the kinds of sources that it cuts; code with holes is none any more"
    )
    min_words: int = knob(50, "least words of a passage", ge=8)


class DecontaminationConfig(BaseConfig):
    """Documents that hold what a model will be tested on."""

    evaluation_sets: tuple[FilesConfig, ...] = knob((), "the evaluation sets; none: off")
    rule: Literal["13-gram", "8-gram"] = knob(
        "13-gram",
        "13-gram: a shared run of 13 words drops a document (Brown et al. 2020, appendix C); "
        "8-gram: holding 70% of an item's runs of 8 words drops it (Chowdhery et al. 2022, section 8)",
    )


class DataConfig(BaseConfig):
    sources: tuple[SourceConfig, ...] = knob(
        meaning="where the text comes from; of equal documents the first source keeps its own", min_length=1
    )
    executor: Literal["native", "ray"] = knob(
        "native", "what runs the work: this machine, or a Ray cluster", exclude=True
    )
    html_extractor: Literal["trafilatura", "resiliparse"] = knob(
        "trafilatura", "of a page's main text: trafilatura, or resiliparse at 7 times its speed"
    )
    language: LanguageConfig = knob(LanguageConfig(), "which languages pass")
    gopher_quality: GopherQualityConfig = knob(GopherQualityConfig(), "rules of quality")
    gopher_repetition: GopherRepetitionConfig = knob(GopherRepetitionConfig(), "rules of repetition")
    c4: C4Config = knob(C4Config(), "lines that are sentences")
    fineweb: FineWebConfig = knob(FineWebConfig(), "lists and menus")
    code: CodeFilterConfig = knob(CodeFilterConfig(), "rules for code")
    word_lists: tuple[WordListConfig, ...] = knob((), "words that a text must not use too often")
    classifier: ClassifierConfig | None = knob(None, "a judge trained on examples")
    pii: PiiConfig = knob(PiiConfig(), "personal data")
    exact_dedup: ExactDedupConfig = knob(ExactDedupConfig(), "exact deduplication")
    minhash_dedup: MinHashDedupConfig = knob(MinHashDedupConfig(), "near deduplication")
    substring_dedup: SubstringDedupConfig = knob(SubstringDedupConfig(), "repeated passages")
    dedup_against: tuple[FilesConfig, ...] = knob(
        (), "corpora made earlier: what they hold is a duplicate here"
    )
    decontaminate: DecontaminationConfig = knob(DecontaminationConfig(), "evaluation sets to keep out")
    validation_fraction: float = knob(
        0.01, "share of the documents held out, chosen by a stable hash of the text", ge=0, lt=1
    )
    shard_megabytes: float = knob(64.0, "text in one file of the result", gt=0)
    memory_gigabytes: float = knob(
        4.0, "what deduplication may hold at once; more work is done in several passes", gt=0, exclude=True
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> "DataConfig":
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {twice[0]}")
        if self.exact_dedup.paragraphs and self.substring_dedup.enabled:
            raise ValueError("exact.paragraphs and substring.enabled cut the same text: choose one of them")
        return self
