"""Examples from JSON or CSV files: pairs of a query and the text to be found, and texts with a label.

    {"query": "how to boil rice", "text": "Rinse the rice, ..."}        {"text": "I liked it", "label": "good"}

Labels may also be the names of folders of text files. Dropped examples are counted by reason.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import mapped_fields
from groundup.data.readers.encoding import decode_bytes
from groundup.data.record_files import FileRecord, source_files, source_records
from groundup.data.stable_hash import hash_fraction
from groundup.finetune.training_data.read_stats import ReadStats
from groundup.recipe.finetune_config import ExampleSourceConfig

EXAMPLE_FIELDS = {"pairs": ("query", "text"), "labels": ("text", "label"), "folders": ("text", "label")}
MIN_HELD_OUT, MAX_HELD_OUT_FRACTION = 50, 0.2
"""At least so many examples are held out, unless that is more than this fraction of them."""

T = TypeVar("T")


class Example(NamedTuple):
    """A query and the text that it asks for, or a text and its label."""

    text: str
    target: str


def read_examples(inputs: Iterable[ExampleSourceConfig], machine: Machine) -> tuple[list[Example], ReadStats]:
    """All examples of all sources, in the order of the recipe and the files; of equal first texts and targets, the first.

    A text with two labels counts once, with the first. Raises UserError if a source cannot be read, or no example is left.
    """
    stats = ReadStats()
    examples: dict[Any, Example] = {}
    kinds = {source.kind for source in inputs}
    for source in inputs:
        first, second = EXAMPLE_FIELDS[source.kind]
        for record in _folder_records(source, machine) if source.kind == "folders" else source_records(source, machine):
            stats.read += 1
            fields = mapped_fields(record.value, source.columns) if isinstance(record.value, dict) else {}
            text, target = fields.get(first), fields.get(second)
            if source.kind == "labels" and isinstance(target, int):  # 0 and 1 are common labels
                target = str(target)
            if not (isinstance(text, str) and isinstance(target, str) and text.strip() and target.strip()):
                stats.drop_record(record.fault or "malformed", record, source.name)
                continue
            example = Example(text.strip(), target.strip())
            if (key := example if source.kind == "pairs" else example.text) in examples:
                stats.drop_record("duplicate", record, source.name)
            else:
                examples[key] = example
    stats.kept = len(examples)
    if not examples:
        fields = " and ".join(EXAMPLE_FIELDS[min(kinds)])
        shown = f"; {found}" if (found := stats.describe_fields()) else ""
        raise UserError(
            f"no examples in {', '.join(source.name for source in inputs)} ({stats.read} entries read)",
            hint=f"kind = {min(kinds)} reads JSON or CSV with the fields {fields}, or as `columns` names them{shown}"
            if kinds != {"folders"}
            else None,
        )
    return list(examples.values()), stats


def _folder_records(source: ExampleSourceConfig, machine: Machine) -> Iterator[FileRecord]:
    """Each file as a text, whose label is its folder."""
    for name, open_file in source_files(source, machine):
        folder = PurePosixPath(name).parent.name
        if not folder:
            raise UserError(
                f"{source.name}: {name} lies in no folder, which would be its label",
                hint="path = FOLDER, with one folder for each label",
            )
        with open_file() as stream:
            yield FileRecord({"text": decode_bytes(stream.read()).text, "label": folder}, name, 1)


def split_examples(examples: Sequence[T], fraction: float, key: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """(training set, validation set with about `fraction` of the keys), in their order, by a hash of the key.

    Raises UserError if `fraction` is not 0 and there are too few for both.
    """
    if not fraction:
        return list(examples), []
    keys = sorted({key(example) for example in examples}, key=hash_fraction)
    count = max(math.ceil(fraction * len(keys)), min(MIN_HELD_OUT, int(MAX_HELD_OUT_FRACTION * len(keys))))
    if count >= len(keys):
        raise UserError(f"{len(keys)} different texts or prompts, expected at least 2: one is held out")
    held_out = set(keys[:count])
    return [e for e in examples if key(e) not in held_out], [e for e in examples if key(e) in held_out]
