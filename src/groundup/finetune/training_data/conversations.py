"""Conversations from files: what is read, in one form, without duplicates, and the validation split.

The shapes of records are in data/conversation_shapes.py, those of other files in dialogue_files.py and conversation_trees.py.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import Messages, find_messages, mapped_fields
from groundup.data.held_out_conversations import is_held_out, opening_turn
from groundup.data.inputs import file_hashes
from groundup.data.record_files import FileRecord, records_of_files, source_files
from groundup.finetune.training_data.conversation_store import ConversationStore, TrainingConversation
from groundup.finetune.training_data.conversation_trees import join_trees
from groundup.finetune.training_data.dialogue_files import MESSAGES_OF_ENTRIES, dialogue_records
from groundup.finetune.training_data.read_stats import ReadStats, RecordDropped
from groundup.finetune.training_data.turn_checks import DoubledRoles, check_messages, merge_doubled, tools_of
from groundup.recipe.finetune_config import ConversationSourceConfig, FinetuneConfig

SHAPES = (
    "`messages`, `conversations`, instruction and output, prompt and completion, or question and answer; "
    'columns = {prompt = "FIELD", completion = "FIELD"} or {messages = "FIELD"} names them in the files'
)
FOR_PREFERENCE = "pairs of a chosen and a rejected answer are for the table [preference]"
LABELS_OF_BAD = ("false", "0", "-1")


def read_conversations(
    inputs: Iterable[ConversationSourceConfig], machine: Machine, doubled_roles: DoubledRoles = "merge"
) -> tuple[ConversationStore, ReadStats]:
    """All conversations of all sources without duplicates, in the order of the recipe and the files.

    `doubled_roles`: what happens to two turns of one role behind each other. Raises UserError if a source cannot be read, or
    no conversation is left.
    """
    inputs = list(inputs)
    stats = ReadStats()
    store = ConversationStore()
    known: set[bytes] = set()
    for source in inputs:
        for record in _source_records(source, machine):
            stats.read += 1
            try:
                for conversation in _conversations_of(record, source, doubled_roles, stats):
                    key = _digest(conversation)
                    if key in known:
                        raise RecordDropped("duplicate")
                    known.add(key)
                    store.append(conversation)
            except RecordDropped as reason:
                stats.drop_record(str(reason), record, source.name)
    stats.kept = len(store)
    if not store:
        names = ", ".join(source.name for source in inputs)
        fields = stats.describe_fields()
        expected = FOR_PREFERENCE if fields and "chosen" in fields else f"expected the fields {SHAPES}"
        hint = "; ".join(filter(None, [stats.describe(), fields, expected]))
        raise UserError(f"no conversations in {names} ({stats.read:,} entries read)", hint=hint)
    return store, stats


def conversation_of(
    messages: Messages, doubled_roles: DoubledRoles = "merge", **options: Any
) -> tuple[TrainingConversation, list[str]]:
    """The conversation of some messages, and what was changed in it (of CHANGES). `options`: its other fields.

    Raises RecordDropped if there is none.
    """
    kept = [dict(each) for each in messages if each["role"] not in ("system", "developer") or each["content"]]
    length = len(kept)
    while kept and kept[-1]["role"] != "assistant":
        kept.pop()
    check_messages(kept if kept else messages)
    if not kept:
        raise RecordDropped("no_answer")
    if not any(each.get("weight", 1) for each in kept if each["role"] == "assistant"):
        raise RecordDropped("nothing_learnt")
    merged, is_merged = merge_doubled(kept, doubled_roles)
    changes = ["ends_with_user"] * (len(kept) < length) + ["merged_turns"] * is_merged
    return TrainingConversation(merged, **options), changes


def split_conversations(
    conversations: ConversationStore, fraction: float
) -> tuple[ConversationStore, ConversationStore]:
    """(training set, validation set with about `fraction` of the openings), in their order.

    Split by a hash of the opening, so that no opening is in both sets.
    """
    parts: tuple[list[int], list[int]] = ([], [])
    for index, conversation in enumerate(conversations):
        opening = opening_turn(conversation.messages) or conversation.opening
        parts[is_held_out(opening, fraction)].append(index)
    return conversations.select(parts[0]), conversations.select(parts[1])


def identity(section: FinetuneConfig, machine: Machine) -> dict[str, Any]:
    """The content hash of every source by name, so that changed files make a new run. Downloads nothing.

    Raises UserError if a local path matches no file.
    """
    hashes = {source.name: file_hashes(source, machine) for source in (*section.conversations, *section.examples)}
    if section.teacher is not None:
        from groundup.interop.base_model import hash_model  # torch, which reading needs not

        hashes["teacher"] = hash_model(section.teacher, machine, "finetune.teacher")
    return hashes


def _source_records(source: ConversationSourceConfig, machine: Machine) -> Iterator[FileRecord]:
    files = source_files(source, machine)
    if source.topics:
        found = {PurePosixPath(name).stem for name, _ in files}
        if missing := sorted(set(source.topics) - found):
            raise UserError(
                f"finetune.conversations: {source.name}: no file named {missing[0]}", hint=f"check {source.path}"
            )
        files = [file for file in files if PurePosixPath(file[0]).stem in source.topics]
    if source.kind == "messages":
        return join_trees(records_of_files(source.name, files, machine))
    return dialogue_records(source.kind, files)


def _conversations_of(
    record: FileRecord, source: ConversationSourceConfig, doubled_roles: DoubledRoles, stats: ReadStats
) -> Iterator[TrainingConversation]:
    if record.fault:
        raise RecordDropped(record.fault)
    if source.kind == "messages":
        found: Iterable[Messages] = [_messages_of_record(record.value, source.columns)]
    else:
        found = MESSAGES_OF_ENTRIES[source.kind](record.value)
    options = {"source": source.name, "topic": PurePosixPath(record.file).stem, "weight": source.repeats}
    tools = tools_of(mapped_fields(record.value, source.columns)) if isinstance(record.value, dict) else []
    for messages in found:
        conversation, changes = conversation_of(
            messages, doubled_roles, tools=tools, file=record.file, line=record.line, **options
        )
        for kind in changes:
            stats.change(kind, record.value, source.name, record.file, record.line)
        yield conversation


def _messages_of_record(value: Any, columns: Mapping[str, str]) -> Messages:
    if not (messages := find_messages(value, columns)):
        raise RecordDropped("malformed")
    if isinstance(value, dict) and str(mapped_fields(value, columns).get("label")).lower() in LABELS_OF_BAD:
        raise RecordDropped("undesirable")
    return messages


def _digest(conversation: TrainingConversation) -> bytes:
    text = json.dumps([conversation.messages, conversation.tools], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
