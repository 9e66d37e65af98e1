"""Conversations in a temporary file: 200,000 of them are gigabytes, of which one is needed at a time."""

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from groundup.data.conversation_shapes import Messages


@dataclass(frozen=True)
class TrainingConversation:
    """Messages as chat templates take them, the last of which is the assistant's.

    Attributes:
        messages: with `role`, `content`, and where there are any `tool_calls`, `tool_call_id`, `name` and
            `reasoning_content`; `weight` 0 for an answer that is not learnt.
        source: name of the source in the recipe.
        topic: name of its file, without suffix.
        weight: number of times in one epoch.
        tools: definitions of the functions that may be called, as JSON schemas.
        file, line: where it was read.
    """

    messages: Messages
    source: str = ""
    topic: str = ""
    weight: float = 1.0
    tools: list[Any] = field(default_factory=list)
    file: str = ""
    line: int = 0

    @property
    def opening(self) -> str:
        """The first user turn; without one, the first turn."""
        users = (message for message in self.messages if message["role"] == "user")
        return next(users, self.messages[0])["content"] or ""

    @property
    def answer(self) -> str:
        """The first text of the assistant."""
        return next((message["content"] or "" for message in self.messages if message["role"] == "assistant"), "")


class _UnnamedFile:
    """A file without a name, which is closed and gone with the last reference to it."""

    def __init__(self):
        self.descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        weakref.finalize(self, os.close, self.descriptor)


class ConversationStore(Sequence[TrainingConversation]):
    """A sequence of conversations that grows at its end. Each access reads and parses one conversation."""

    def __init__(self, conversations: Iterable[TrainingConversation] = ()):
        self._file = _UnnamedFile()
        self._begins, self._lengths = array("Q"), array("Q")
        self._end = 0
        self.extend(conversations)

    def extend(self, conversations: Iterable[TrainingConversation]) -> None:
        for conversation in conversations:
            self.append(conversation)

    def append(self, conversation: TrainingConversation) -> None:
        data = json.dumps([getattr(conversation, name) for name in FIELDS], ensure_ascii=False, default=str).encode()
        os.pwrite(self._file.descriptor, data, self._end)
        self._begins.append(self._end)
        self._lengths.append(len(data))
        self._end += len(data)

    def select(self, indices: Iterable[int]) -> "ConversationStore":
        """Some of the conversations, in the same file; nothing may be appended to both."""
        part = ConversationStore.__new__(ConversationStore)
        part._file, part._end = self._file, self._end
        chosen = array("Q", indices)
        part._begins = array("Q", (self._begins[index] for index in chosen))
        part._lengths = array("Q", (self._lengths[index] for index in chosen))
        return part

    def __len__(self) -> int:
        return len(self._begins)

    @overload
    def __getitem__(self, index: int) -> TrainingConversation: ...
    @overload
    def __getitem__(self, index: slice) -> "ConversationStore": ...
    def __getitem__(self, index: int | slice) -> "TrainingConversation | ConversationStore":
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        data = os.pread(self._file.descriptor, self._lengths[index], self._begins[index])
        return TrainingConversation(*json.loads(data))

    def __iter__(self) -> Iterator[TrainingConversation]:
        return (self[index] for index in range(len(self)))


FIELDS = ("messages", "source", "topic", "weight", "tools", "file", "line")
"""Of TrainingConversation, in the order of its arguments."""
