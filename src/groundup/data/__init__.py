"""3. Data: read documents, clean, deduplicate and decontaminate them, and write a shuffled corpus.

    document.py         Document and DroppedDocument
    inputs.py           input files: paths, globs, URLs, packages, Common Crawl; content hashes
    download.py         resumable downloads into the cache
    package_index.py    archives in the Python package index
    archive.py          members of zip and tar archives, decompression
    hash_cache.py       SHA-256 of files, cached
    stable_hash.py      hashes of texts and integers
    license.py          license detection for source files
    task_files.py       questions and completions with known answers
    held_out_conversations.py  those that fine-tuning holds out
    readers/            one reader for each kind of source
    chat_message.py     one message, from the forms that are published
    conversation_shapes.py  messages of a record
    record_files.py     records of files, with their lines
    file_kind.py        kind of a file by content and name
    document_reader.py  documents in files
    clean/              normalization, filters, PII masking
    decontaminate.py    overlap with evaluation sets
    dedup/              exact, MinHash and passage deduplication
    dedup_estimate.py   memory and passes of deduplication
    filter_stats.py     counts and samples of kept and dropped documents
    survey.py           what files hold, from a sample
    work_units.py       division of the sources into units of work
    work_files.py       parquet, array and JSON files of the stage
    executor.py         parallel execution with Daft, native or on Ray
    unit_progress.py    progress within a unit
    process_unit.py     first pass: read and clean a unit
    validation_split.py held-out documents and spans
    shuffle.py          last passes: split, mix, shuffle
    corpus_summary.py   metrics and sample files
    stage.py            the stage

Deliberately absent: torch and tokens; an executor of its own (Daft runs the units, locally or on a cluster).

The names below are imported on first use, which keeps Daft, pyarrow and numpy out of `groundup plan`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.data.clean.cleaning_steps import clean_texts as clean_texts
    from groundup.data.clean.language import detect_language as detect_language
    from groundup.data.clean.normalize import normalize as normalize
    from groundup.data.clean.pii import mask_pii as mask_pii
    from groundup.data.dedup.duplicates import deduplicate as deduplicate
    from groundup.data.dedup.duplicates import find_duplicates as find_duplicates
    from groundup.data.document import Document as Document
    from groundup.data.document import DroppedDocument as DroppedDocument
    from groundup.data.document_reader import read_documents as read_documents
    from groundup.data.readers.html import extract_text as extract_text

_LAZY_IMPORTS = {
    "Document": "document",
    "DroppedDocument": "document",
    "clean_texts": "clean.cleaning_steps",
    "deduplicate": "dedup.duplicates",
    "detect_language": "clean.language",
    "extract_text": "readers.html",
    "find_duplicates": "dedup.duplicates",
    "mask_pii": "clean.pii",
    "normalize": "clean.normalize",
    "read_documents": "document_reader",
}

__all__ = [
    "Document", "DroppedDocument", "clean_texts", "deduplicate", "detect_language", "extract_text", "find_duplicates",
    "mask_pii", "normalize", "read_documents",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'groundup.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"groundup.data.{_LAZY_IMPORTS[name]}"), name)
