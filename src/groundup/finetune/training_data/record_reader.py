"""The records of all sources as items without duplicates: preferences, labelled answers, problems."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import mapped_fields
from groundup.data.record_files import FileRecord, source_records
from groundup.finetune.training_data.read_stats import ReadStats, RecordDropped
from groundup.recipe.finetune_config import FinetuneSourceConfig

Item = TypeVar("Item")


def read_records(
    inputs: Iterable[FinetuneSourceConfig],
    machine: Machine,
    parse: Callable[[Mapping[str, Any]], Iterable[Item]],
    *,
    key: Callable[[Item], str] = repr,
    located: Callable[[Item, str, FileRecord], Item] = lambda item, source, record: item,
    what: str,
    fields: str,
) -> tuple[list[Item], ReadStats]:
    """All items of all sources, in the order of the recipe and the files; of those with one key, the first.

    Args:
        parse: a record with fields in lower case -> its items. Raises RecordDropped.
        located: (item, name of the source, record) -> the item with the place where it stands.
        what, fields: name of the items and of the fields that they need, for the error.

    Raises UserError if a source cannot be read, or no item is left.
    """
    stats = ReadStats()
    items: dict[str, Item] = {}
    for source in inputs:
        for record in source_records(source, machine):
            stats.read += 1
            if record.fault or not isinstance(record.value, dict):
                stats.drop_record(record.fault or "malformed", record, source.name)
                continue
            try:
                for item in parse(mapped_fields(record.value, source.columns)):
                    if (name := key(item)) in items:
                        raise RecordDropped("duplicate")
                    items[name] = located(item, source.name, record)
            except RecordDropped as reason:
                stats.drop_record(str(reason), record, source.name)
    stats.kept = len(items)
    if not items:
        expected = f"expected the fields {fields}; `columns` names them in the files"
        raise UserError(
            f"no {what} in {', '.join(source.name for source in inputs)} ({stats.read:,} records read)",
            hint="; ".join(filter(None, (stats.describe(), stats.describe_fields(), expected))),
        )
    return list(items.values()), stats
