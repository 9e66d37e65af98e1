"""[data]: sources of text, filters, deduplication and decontamination."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import LOWER_NAME, PACKAGE_NAME, SHA256, VERSION, BaseConfig, knob

SourceKind = Literal[
    "wikipedia", "books", "web", "code", "text", "markdown", "rst", "html", "pdf", "office", "mail", "subtitles", "jsonl",
    "table", "huggingface", "gettext",
]  # fmt: skip
FileKind = Literal["auto", SourceKind]
PROSE_KINDS: tuple[SourceKind, ...] = (
    "wikipedia", "web", "text", "html", "pdf", "office", "mail", "jsonl", "table", "huggingface",
)  # fmt: skip
"""Kinds to which filters for web pages apply. Not books: verse and plays fail them on every page. Not documentation in
Markdown or reStructuredText: its code and tables repeat themselves (64% of 247 files of a linter's rules were dropped)."""
TEXT_KINDS: tuple[SourceKind, ...] = (*PROSE_KINDS, "markdown", "rst", "books", "subtitles")
"""All kinds but code."""

APPLIES_TO = "kinds of sources that this applies to; empty: off"


class PackageConfig(BaseConfig):
    """A pinned package of the Python package index, fetched with the package settings of the machine."""

    name: str = knob(meaning="name of the package", pattern=PACKAGE_NAME)
    version: str = knob(meaning="exact version", pattern=VERSION)
    distribution: Literal["sdist", "wheel"] = knob("sdist", "archive to download")
    sha256: str | None = knob(None, "SHA-256 of the archive", unset="not checked", pattern=SHA256)


class FilesConfig(BaseConfig):
    """Files that hold documents: local, remote, or in a package."""

    name: str = knob(meaning="name in tables and reports", pattern=LOWER_NAME)
    kind: FileKind = knob(
        "auto",
        "format of the files: auto, for each file by content and name; a MediaWiki dump; "
        "books (text, EPUB); a web crawl (WARC, WET); code; plain text; "
        "Markdown; reStructuredText; HTML pages; PDF; office (DOCX, ODT, RTF); mail (messages, mail boxes); subtitles (SubRip, "
        "WebVTT, SubStation); JSON lines and arrays; a table (Parquet, Arrow, CSV, TSV, XLSX); a Hugging Face dataset folder; "
        "gettext catalogues (.po), one document for each message and its translation",
    )
    path: str | None = knob(
        None,
        "path with globs, https:// address, any fsspec URL, or commoncrawl://SNAPSHOT/warc; with `package`: members of "
        "its archive, with globs",
        unset="all members of `package`",
    )
    package: PackageConfig | None = knob(None, "read `path` from the archive of this package", unset="off")
    members: str | None = knob(None, "members of archives to read, with globs", unset="all")
    sha256: str | None = knob(None, "SHA-256 of the single file that `path` names", unset="not checked", pattern=SHA256)
    text_column: str = knob(
        "text",
        "column or key of the text, in tables and JSON lines; if kind = auto and there is none: the longest text. "
        "In JSON lines also of a list of messages, whose contents are the text",
    )
    delimiter: str | None = knob(
        None,
        'text that parts the documents of one text file, such as "\\n-----\\n"',
        unset="<|endoftext|>, where it is no part of a sentence",
        min_length=1,
    )

    @model_validator(mode="after")
    def _check_location(self) -> "FilesConfig":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        return self


# exclude=True: how the work is done, not its result; no part of the fingerprint.
class SourceConfig(FilesConfig):
    """One source of training text."""

    epochs: float = knob(1.0, "times that the source is repeated in one pass over the mix", gt=0)
    target_tokens: float | None = knob(
        None,
        "tokens of the source in one pass over the mix, estimated at 4 bytes per token; replaces epochs",
        unset="epochs applies",
        gt=0,
    )
    file_fraction: float = knob(
        1.0,
        "fraction of the files to read, chosen by a hash of their names and the seed; at least one file",
        gt=0,
        le=1,
    )
    keep_downloads: bool = knob(
        True, "keep downloaded files for later runs; false: delete each file after reading", exclude=True
    )
    clean: bool = knob(True, "apply filters and PII masking; false: deduplication only")
    license: str | None = knob(
        None,
        "license of the texts, an SPDX name, which `groundup trace` shows; files of code that state one keep theirs",
        unset="not known",
    )


class LanguageConfig(BaseConfig):
    """Language identification; not applied to code."""

    languages: tuple[str, ...] = knob((), "ISO 639 codes of the languages to keep; empty: all")
    threshold: float = knob(
        0.5, "minimum probability of the most likely language, if `languages` names any", ge=0, le=1
    )


class GopherQualityConfig(BaseConfig):
    """Gopher quality filter (Rae et al. 2021, table A1)."""

    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, APPLIES_TO)
    min_words: int = knob(50, "minimum number of words", ge=0)
    max_words: int = knob(100_000, "maximum number of words", ge=1)
    min_mean_word_length: float = knob(
        3.0, "minimum mean word length, in characters; scaled for languages with other words", ge=0
    )
    max_mean_word_length: float = knob(10.0, "maximum mean word length, in characters; scaled likewise", ge=0)
    max_symbol_ratio: float = knob(0.1, "maximum '#' or '...' per word", ge=0)
    max_bullet_lines_ratio: float = knob(0.9, "maximum fraction of lines that start with a bullet", ge=0, le=1)
    max_ellipsis_lines_ratio: float = knob(0.3, "maximum fraction of lines that end with an ellipsis", ge=0, le=1)
    min_alphabetic_words_ratio: float = knob(0.8, "minimum fraction of words with a letter", ge=0, le=1)
    min_stop_words: int = knob(
        2, "minimum number of distinct stop words of the text's language, such as the, be, to, of", ge=0
    )


class GopherRepetitionConfig(BaseConfig):
    """Gopher repetition filter (Rae et al. 2021, table A1)."""

    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, APPLIES_TO)
    max_duplicate_lines_ratio: float = knob(0.3, "maximum fraction of duplicate lines, or paragraphs", ge=0, le=1)
    max_duplicate_line_characters_ratio: float = knob(
        0.2, "maximum fraction of characters in duplicate lines, or paragraphs", ge=0, le=1
    )
    max_top_ngram_ratios: tuple[float, float, float] = knob(
        (0.20, 0.18, 0.16), "maximum fraction of characters in the most frequent 2-gram, 3-gram, 4-gram of words"
    )
    max_duplicate_ngram_ratios: tuple[float, float, float, float, float, float] = knob(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), "maximum fraction of characters in duplicate n-grams of 5 to 10 words"
    )


class C4Config(BaseConfig):
    """C4 filter (Raffel et al. 2020): keeps lines that are sentences, and pages with enough of them."""

    kinds: tuple[SourceKind, ...] = knob((), APPLIES_TO)
    min_line_words: int = knob(3, "minimum words per line", ge=0)
    max_word_length: int = knob(1_000, "maximum word length of a line, in characters", ge=1)
    min_sentences: int = knob(5, "minimum sentences per page", ge=0)


class FineWebConfig(BaseConfig):
    """FineWeb filter (Penedo et al. 2024): the three rules that helped beyond Gopher's and C4's."""

    kinds: tuple[SourceKind, ...] = knob(("web",), APPLIES_TO)
    min_punctuated_lines_ratio: float = knob(0.12, "minimum fraction of lines that end a sentence", ge=0, le=1)
    short_line_length: int = knob(30, "maximum length of a short line, in characters", ge=0)
    max_short_lines_ratio: float = knob(0.67, "maximum fraction of short lines", ge=0, le=1)
    max_duplicate_characters_ratio: float = knob(0.01, "maximum fraction of characters in duplicate lines", ge=0, le=1)
    max_newlines_per_word: float = knob(0.3, "maximum newlines per word", ge=0)


class CodeFilterConfig(BaseConfig):
    """Minified, encoded and generated code (Kocetkov et al. 2022, The Stack; Li et al. 2023, StarCoder)."""

    kinds: tuple[SourceKind, ...] = knob(("code",), APPLIES_TO)
    max_line_length: int = knob(1_000, "maximum line length, in characters", ge=1)
    max_mean_line_length: float = knob(100.0, "maximum mean line length, in characters", gt=0)
    min_alphanumeric_ratio: float = knob(0.25, "minimum fraction of letters and digits", ge=0, le=1)
    drop_generated: bool = knob(True, "drop files whose first lines declare them generated")
    licenses: tuple[str, ...] = knob(
        (), "SPDX names of licenses to keep, such as MIT, or `permissive`; empty: keep all, unknown licenses too"
    )


class PiiTokensConfig(BaseConfig):
    """Tokens that replace personal data and secrets; may be empty, or all the same."""

    email: str = knob("<email>", "replaces an e-mail address")
    phone: str = knob("<phone>", "replaces a telephone number")
    ip: str = knob("<ip>", "replaces an IP address")
    card: str = knob("<card>", "replaces a payment card number")
    id_number: str = knob("<id>", "replaces an identity or account number")
    secret: str = knob("<secret>", "replaces a key, token or password")


class PiiConfig(BaseConfig):
    """Personal data and secrets to replace by tokens such as <email>."""

    emails: bool = knob(True, "e-mail addresses")
    phones: bool = knob(
        True,
        "telephone numbers that libphonenumber finds valid: in international form, or in national form after a word such "
        "as `phone`, in many languages",
    )
    ips: bool = knob(True, "public IPv4 and IPv6 addresses")
    cards: bool = knob(True, "payment card numbers with a valid Luhn checksum")
    id_numbers: bool = knob(
        True, "identity and account numbers with a valid checksum (IBAN, CPF, DNI), and US social security numbers"
    )
    secrets: bool = knob(True, "API keys and tokens, private keys, passwords in URLs")
    tokens: PiiTokensConfig = knob(PiiTokensConfig(), "what replaces them")


class WordListConfig(BaseConfig):
    """Drop pages with too many words of a list: toxic, adult, spam."""

    name: str = knob(meaning="drop reason in tables and reports", pattern=LOWER_NAME)
    path: str = knob(meaning="text file with one word or phrase per line")
    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, APPLIES_TO)
    max_hits: int = knob(2, "occurrences that are always allowed", ge=0)
    max_words_ratio: float = knob(0.005, "maximum fraction of the words beyond that", ge=0, le=1)


class ClassifierConfig(BaseConfig):
    """A linear quality classifier, trained on examples (after Joulin et al. 2016)."""

    positive: tuple[FilesConfig, ...] = knob(meaning="examples of text to keep", min_length=1)
    negative: tuple[FilesConfig, ...] = knob(meaning="examples of text to drop", min_length=1)
    kinds: tuple[SourceKind, ...] = knob(PROSE_KINDS, APPLIES_TO)
    threshold: float = knob(0.5, "minimum probability of the positive class", ge=0, le=1)
    max_examples_per_class: int = knob(20_000, "maximum training documents of each class", ge=1)


class ExactDedupConfig(BaseConfig):
    """Exact duplicates, ignoring case, punctuation and spaces; in code, spaces only."""

    enabled: bool = knob(True, "drop documents with the text of an earlier one")
    paragraphs: bool = knob(False, "also remove paragraphs of earlier documents")
    min_paragraph_words: int = knob(
        8, "minimum words of a paragraph to be compared, or characters in scripts without spaces", ge=1
    )


class MinHashDedupConfig(BaseConfig):
    """Near duplicates (Broder 1997; banding of Leskovec et al., Mining of Massive Datasets, chapter 3)."""

    action: Literal["drop", "keep_same_split", "off"] = knob(
        "drop",
        "drop documents similar to an earlier one that is kept; keep_same_split: keep them, all in train or all in validation",
    )
    ngram_size: int = knob(5, "words per n-gram (shingle); characters in scripts without spaces", ge=1)
    num_bands: int = knob(14, "number of bands; documents with one equal band are a candidate pair", ge=1)
    hashes_per_band: int = knob(
        8,
        "hashes per band; more find only closer copies: half of the pairs of Jaccard similarity "
        "(1 / num_bands) ** (1 / hashes_per_band) are found",
        ge=1,
    )
    threshold: float = knob(
        0.0, "minimum signature similarity of a candidate pair; 0: all candidates are duplicates", ge=0, le=1
    )


class SubstringDedupConfig(BaseConfig):
    """Removal of long repeated passages, within and across documents (Lee et al. 2021)."""

    enabled: bool = knob(False, "remove repeated passages")
    kinds: tuple[SourceKind, ...] = knob(TEXT_KINDS, APPLIES_TO)
    min_words: int = knob(50, "minimum words of a passage, or characters in scripts without spaces", ge=8)


class DecontaminationConfig(BaseConfig):
    """Documents to drop because they contain evaluation items."""

    evaluation_sets: tuple[FilesConfig, ...] = knob((), "evaluation sets; empty: off")
    rule: Literal["13-gram", "8-gram"] = knob(
        "13-gram",
        "13-gram: a common 13-gram of words drops a document (Brown et al. 2020, appendix C); 8-gram: 70% of the 8-grams "
        "of an item do (Chowdhery et al. 2022, section 8)",
    )


class DataConfig(BaseConfig):
    """[data]: sources of text, filters, deduplication and the mix."""

    sources: tuple[SourceConfig, ...] = knob(
        meaning="sources of text; of duplicates, the copy of the earlier source is kept", min_length=1
    )
    executor: Literal["native", "ray"] = knob("native", "native: this machine; ray: a Ray cluster", exclude=True)
    html_extractor: Literal["trafilatura", "resiliparse"] = knob(
        "trafilatura", "extractor of the main text of web pages; resiliparse is 7 times faster"
    )
    language: LanguageConfig = knob(LanguageConfig(), "language filter")
    gopher_quality: GopherQualityConfig = knob(GopherQualityConfig(), "Gopher quality filter")
    gopher_repetition: GopherRepetitionConfig = knob(GopherRepetitionConfig(), "Gopher repetition filter")
    c4: C4Config = knob(C4Config(), "C4 filter")
    fineweb: FineWebConfig = knob(FineWebConfig(), "FineWeb filter")
    code: CodeFilterConfig = knob(CodeFilterConfig(), "code filter")
    word_lists: tuple[WordListConfig, ...] = knob((), "word list filters")
    classifier: ClassifierConfig | None = knob(None, "quality classifier", unset="off")
    pii: PiiConfig = knob(PiiConfig(), "personal data masking")
    exact_dedup: ExactDedupConfig = knob(ExactDedupConfig(), "exact deduplication")
    minhash_dedup: MinHashDedupConfig = knob(MinHashDedupConfig(), "near deduplication")
    substring_dedup: SubstringDedupConfig = knob(SubstringDedupConfig(), "repeated passages")
    dedup_against: tuple[FilesConfig, ...] = knob((), "earlier corpora, whose documents count as duplicates")
    decontaminate: DecontaminationConfig = knob(DecontaminationConfig(), "evaluation sets to keep out")
    validation_fraction: float = knob(
        0.01,
        "fraction of the text of each source for validation: whole documents, or spans of a source with few documents; "
        "more of a small corpus (100 kB, at most a tenth)",
        ge=0,
        lt=1,
    )
    held_out_conversations: float | None = knob(
        None,
        "fraction of the conversations and translated messages in the sources that are left out, because fine-tuning "
        "holds them out",
        unset="finetune.validation_fraction, where sources have conversations",
        ge=0,
        lt=1,
    )
    shard_megabytes: float = knob(64.0, "megabytes of text per output file", gt=0)
    memory_gigabytes: float = knob(
        4.0, "memory limit of deduplication, in gigabytes; larger work takes several passes", gt=0, exclude=True
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> "DataConfig":
        names = [source.name for source in self.sources]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources has two entries with name = {duplicates[0]!r}")
        if self.exact_dedup.paragraphs and self.substring_dedup.enabled:
            raise ValueError(
                "exact_dedup.paragraphs and substring_dedup.enabled remove the same text, expected one of them"
            )
        return self
