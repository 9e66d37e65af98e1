"""What the files of a source hold, from a bounded sample: kinds, languages, encodings, sizes, duplicates, conversations."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.archive import estimate_text_bytes
from groundup.data.clean.cleaning_steps import FilterContext, build_steps, clean_document, utf8_bytes
from groundup.data.clean.language import detect_language
from groundup.data.clean.language_rules import LANGUAGE_NAMES
from groundup.data.clean.step_types import CleaningStep
from groundup.data.conversation_shapes import find_messages
from groundup.data.corpus_summary import BYTES_PER_TOKEN
from groundup.data.dedup.document_keys import text_key
from groundup.data.document import Document, DroppedDocument
from groundup.data.document_reader import read_file_kinds
from groundup.data.file_kind import ENCODED, TROFF, UNKNOWN_KIND
from groundup.data.filter_stats import PII_STEP, REASON_TEXTS, count_by_name, describe_reason
from groundup.data.inputs import InputFile, resolve_files
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.records import CONVERSATIONS
from groundup.data.readers.table import is_arrow
from groundup.data.record_files import file_records
from groundup.recipe.data_config import DataConfig, FilesConfig, SourceConfig

MAX_FILES = 400
SAMPLE_BYTES = 4 << 20
MIN_FILE_BYTES = 16 << 10
MAX_TURNS = 200
"""Limits of the sample: files, text in all, text of each file at least, turns of conversations."""
SURVEYED_CHARACTERS = 20_000
"""Of a longer text, its beginning stands for all of it."""
SHORT_TEXT_WORDS = 50
"""The filters for pages drop shorter texts (Gopher's least number of words)."""
MIN_SHARE = 0.02
"""Languages with a smaller share of the text are taken for errors of the detection."""
LEFT_OUT = {
    UNKNOWN_KIND: "of no known kind (images, binaries, settings)",
    "empty_file": "empty",
    "broken_file": "damaged",
    "broken_archive": "damaged",
    "not_text": "binary",
    "too_large": "too large",
    **{reason: REASON_TEXTS[reason] for reason in (TROFF, ENCODED, "nested_archive", "encrypted", "scanned_page")},
}
"""Reasons for which whole files are left out, in words."""
RECORD_KINDS = frozenset(["table", "jsonl"])
ONE_TEXT_KINDS = frozenset(["text", "markdown", "rst", "html", "books", "code", "pdf", "office"])
"""Kinds of one text a file; long ones are read in parts."""
TEXT_FRACTIONS = {"web": 0.1, "html": 0.2, "wikipedia": 0.7, "jsonl": 0.9, "table": 0.9}
"""Text per byte of a file that the sample does not read to its end; other kinds: 1."""


@dataclass
class DataSurvey:
    """Sample of the files of some sources, and totals estimated from it.

    Attributes:
        files, total_bytes: of all files, not only those of the sample.
        text_files, documents, text_bytes: estimates for all files.
        sampled: files of the sample.
        archives: archives of the sample.
        text_sources: names of the sources with text, or not on this machine.
        kinds, encodings: documents of the sample; encodings without UTF-8.
        languages: bytes of the sample.
        left_out: files, members of archives and records in the sample without text, by reason.
        beginnings: first words of a few documents of each kind.
        records, short_records: texts of tables and JSON lines, and those of few words, by source.
        conversations: paths of files with conversations, and the languages of their turns.
    """

    files: int = 0
    total_bytes: int = 0
    sampled: int = 0
    archives: int = 0
    text_sources: set[str] = field(default_factory=set)
    text_files: float = 0.0
    documents: float = 0.0
    text_bytes: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    read: int = 0
    duplicates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    beginnings: dict[str, list[str]] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)
    short_records: Counter[str] = field(default_factory=Counter)
    conversations: list[str] = field(default_factory=list)
    conversation_languages: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        """Estimated tokens of the text that the filters and deduplication keep."""
        kept = 1 - (sum(self.dropped.values()) + self.duplicates) / max(self.read, 1)
        return int(self.text_bytes * kept / BYTES_PER_TOKEN)

    @property
    def main_languages(self) -> list[str]:
        """Languages of a share that counts, the largest first."""
        total = sum(self.languages.values())
        return [
            code for code, count in self.languages.most_common() if count >= MIN_SHARE * total and code != "unknown"
        ]

    @property
    def short_sources(self) -> set[str]:
        """Sources of records of which most are too short for the filters: reviews, questions, messages."""
        return {name for name, count in self.short_records.items() if 2 * count > self.records[name]}

    @property
    def prompts(self) -> list[str]:
        """Beginnings of documents of the most frequent kind that has some: of a site its pages, not its style sheets."""
        return next((found for kind, _ in self.kinds.most_common() if (found := self.beginnings.get(kind))), [])

    def describe(self) -> list[str]:
        """Lines for the console: what the data is, and what the filters would drop."""
        lines = [self._summary()] if self.read else []
        if len(self.kinds) > 1:
            lines.append(f"kinds: {count_by_name(self.kinds)}")
        main, total = self.main_languages, sum(self.languages.values())
        if len(main) > 1:
            lines.append("languages: " + ", ".join(f"{code} {self.languages[code] / total:.0%}" for code in main[:8]))
        if self.encodings:
            lines.append(f"encodings other than UTF-8: {count_by_name(self.encodings)}")
        if self.duplicates:
            lines.append(f"exact duplicates: {self.duplicates / self.read:.0%} of the documents")
        if self.read and (lost := sum(self.dropped.values()) / self.read) > 0.1:
            reason, _ = self.dropped.most_common(1)[0]
            lines.append(f"the filters drop about {lost:.0%} of the documents, most: {describe_reason(reason)}")
        if self.conversations:
            lines.append(f"conversations: {', '.join(self.conversations[:3])}")
        if self.left_out:
            words = {"files": Counter[str](), "records": Counter[str]()}
            for reason, count in self.left_out.items():
                what = LEFT_OUT.get(reason)
                words["files" if what else "records"][what or describe_reason(reason)] += count
            sample = f" (in a sample of {self.sampled:,} files)" if self.sampled < self.files else ""
            for unit, counts in words.items():
                if counts:
                    listed = ", ".join(f"{n:,} {what}" for what, n in counts.most_common())
                    lines.append(f"{unit} without text: {listed}{sample}")
        return lines

    def _summary(self) -> str:
        """Documents, files, size and tokens, as "30 German texts in 30 files, 13 kB, about 3,300 tokens"."""
        main = self.main_languages
        name = f"{LANGUAGE_NAMES.get(main[0], main[0])} " if len(main) == 1 else ""
        noun, files, documents = _noun(self.kinds), round(self.text_files), round(self.documents)
        if self.kinds.keys() <= ONE_TEXT_KINDS and documents > files and not self.archives:
            what = f"{_count(files, f'{name}{noun}')}, the longest in parts ({documents:,} documents)"
        else:
            what = f"{_count(documents, f'{name}{noun}')} in {_count(files, 'file')}"
        unit, name = (1e6, "MB") if self.text_bytes >= 1e6 else (1e3, "kB")
        return f"{what}, {two_digits(self.text_bytes / unit)} {name}, about {describe_tokens(self.tokens)} tokens"


def describe_tokens(tokens: int) -> str:
    """1616 -> "1,600"; 274531 -> "270,000"; 1900000 -> "1.9 million"."""
    return f"{two_digits(tokens / 1e6)} million" if tokens >= 1e6 else two_digits(tokens)


def two_digits(value: float) -> str:
    """Two significant digits: 160.4 -> "160"; 1.94 -> "1.9"."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 or rounded == int(rounded) else f"{rounded:g}"


def _count(number: int, singular: str) -> str:
    return f"{number:,} {singular}{'s' * (number != 1)}"


def _noun(kinds: Counter[str]) -> str:
    names = {"code": "source file", "wikipedia": "article", "web": "page"}
    return names.get(next(iter(kinds)), "text") if len(kinds) == 1 else "text"


def survey_files(specs: Iterable[FilesConfig], machine: Machine) -> DataSurvey:
    """Look at a sample of the files of `specs`. Raises UserError if one matches no file."""
    found = [(spec, file) for spec in specs for file in resolve_files(spec, machine, lazy=True)]
    files = [(spec, file) for spec, file in found if file.url is None]
    survey = DataSurvey(files=len(files), total_bytes=sum(file.path.stat().st_size for _, file in files))
    survey.text_sources.update(spec.name for spec, file in found if file.url is not None)
    sample = files[:: -(-len(files) // MAX_FILES)] if files else []
    survey.sampled = len(sample)
    sample_bytes = sum(file.path.stat().st_size for _, file in sample)
    steps: dict[str, list[CleaningStep]] = {}
    keys: set[int] = set()
    limit = max(MIN_FILE_BYTES, SAMPLE_BYTES // max(len(sample), 1))
    with machine.progress.task("looking at files", total=len(sample), unit="files") as task:
        for spec, file in sample:
            _survey_file(survey, spec, file, limit, steps, keys)
            task.advance()
    scale = survey.total_bytes / max(sample_bytes, 1)
    survey.text_files *= survey.files / max(survey.sampled, 1)
    survey.documents *= scale
    survey.text_bytes *= scale
    return survey


def _survey_file(
    survey: DataSurvey,
    spec: FilesConfig,
    file: InputFile,
    limit: int,
    steps: dict[str, list[CleaningStep]],
    keys: set[int],
) -> None:
    read_bytes = documents = 0
    survey.archives += file.is_archive
    kind = spec.kind
    options = ReaderOptions(spec.text_column, html_extractor="resiliparse")
    for kind, found in read_file_kinds(spec.kind, file, options):
        if isinstance(found, DroppedDocument):
            survey.left_out[found.reason] += found.reason != CONVERSATIONS
            if found.reason == CONVERSATIONS and not file.is_archive:
                survey.conversations.append(str(file.path))
                survey.conversation_languages.update(_turn_languages(file.path))
            continue
        survey.kinds[kind] += 1
        survey.text_sources.add(spec.name)
        survey.text_files += not documents
        documents += 1
        survey.records[spec.name] += kind in RECORD_KINDS
        survey.short_records[spec.name] += kind in RECORD_KINDS and len(found.text.split()) < SHORT_TEXT_WORDS
        read_bytes += utf8_bytes(found.text)
        _survey_document(survey, kind, found, steps if getattr(spec, "clean", True) else {kind: []}, keys)
        if read_bytes > limit:
            break
    else:  # the whole file
        survey.documents += documents
        survey.text_bytes += read_bytes
        return
    size = estimate_text_bytes(file.name, file.path.stat().st_size) * TEXT_FRACTIONS.get(kind, 1.0)
    survey.text_bytes += max(size, read_bytes)
    survey.documents += documents * max(size / read_bytes, 1.0)


def _survey_document(
    survey: DataSurvey, kind: str, document: Document, steps: dict[str, list[CleaningStep]], keys: set[int]
) -> None:
    if kind not in steps:
        config = DataConfig.model_validate({"sources": [{"name": "data", "path": "-"}]})
        steps[kind] = [step for step in build_steps(config, kind, True, FilterContext()) if step.name != PII_STEP]
    survey.read += 1
    document = replace(document, text=document.text[:SURVEYED_CHARACTERS])
    if kind != "code":
        survey.languages[detect_language(document.text)[0]] += utf8_bytes(document.text)
    if (encoding := document.encoding.partition(",")[0]) and not encoding.startswith("utf-8"):
        survey.encodings[encoding] += 1
    result = clean_document(document, steps[kind])
    if isinstance(result, DroppedDocument):
        survey.dropped[result.reason] += 1
        return
    key = int(text_key(result.text))
    survey.duplicates += key in keys
    keys.add(key)
    words = result.text.split()
    beginning = " ".join(words[:4])
    beginnings = survey.beginnings.setdefault(kind, [])
    if len(beginnings) < 3 and len(words) > 20 and beginning not in beginnings:
        beginnings.append(beginning)


def _turn_languages(path: Path) -> Counter[str]:
    return Counter(detect_language(text)[0] for text in islice(iter_turns(path), MAX_TURNS))


def without_filters(spec: FilesConfig) -> SourceConfig:
    """`spec` with deduplication only."""
    return SourceConfig.model_validate(spec.model_dump() | {"clean": False})


def iter_turns(path: Path, role: str = "assistant") -> Iterator[str]:
    """Texts of a role in a file of conversations; what is damaged or of another format is skipped."""
    with path.open("rb") as stream, suppress(UserError):
        for record in file_records(path.name, stream):
            for turn in find_messages(record.value) or ():
                if turn["role"] == role and isinstance(turn["content"], str):
                    yield turn["content"]


PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")


def parse_source(text: str, taken: Iterable[str] = ()) -> FilesConfig:
    """A source from what a user types: a path, glob or URL, or NAME==VERSION for a package of the Python index."""
    if package := PACKAGE.fullmatch(text):
        place = {"package": package.groupdict()}
        stem = package["name"]
    else:
        place = {"path": text}
        fixed = [
            part
            for part in text.rstrip("/").split("/")
            if part not in ("", ".", "..") and not re.search(r"[*?\[]", part)
        ]
        stem = fixed[-1].partition(".")[0] if fixed else ""
    name = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_") or "corpus"
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, 1000))
    return FilesConfig.model_validate({"name": next(found for found in numbered if found not in set(taken)), **place})


def conversations_as_text(spec: FilesConfig, paths: Iterable[str]) -> SourceConfig:
    """The turns of the conversations of `paths` as training text, without the filters for prose: most turns are short."""
    kind = "table" if any(map(is_arrow, paths)) else "jsonl"
    values = spec.model_dump() | {"kind": kind, "text_column": "messages", "clean": False}
    return SourceConfig.model_validate(values)
