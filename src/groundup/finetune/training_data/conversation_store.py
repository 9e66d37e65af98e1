"""Conversations in a temporary file: 200,000 of them are gigabytes, of which one is needed at a time."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from groundup.data.conversation_shapes import Messages
from groundup.finetune.training_data.unnamed_file import UnnamedFile


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


class ConversationStore(Sequence[TrainingConversation]):
    """A sequence of conversations that grows at its end. Each access reads and parses one conversation."""

    def __init__(self, conversations: Iterable[TrainingConversation] = ()):
        self._file = UnnamedFile()
        self._begins, self._lengths = array("Q"), array("Q")
        self.extend(conversations)

    def extend(self, conversations: Iterable[TrainingConversation]) -> None:
        for conversation in conversations:
            self.append(conversation)

    def append(self, conversation: TrainingConversation) -> None:
        data = json.dumps([getattr(conversation, name) for name in FIELDS], ensure_ascii=False, default=str).encode()
        self._begins.append(self._file.append(data))
        self._lengths.append(len(data))

    def select(self, indices: Iterable[int]) -> "ConversationStore":
        """Some of the conversations, in the same file."""
        part = ConversationStore()
        part._file = self._file
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
        data = self._file.read(self._begins[index], self._lengths[index])
        return TrainingConversation(*json.loads(data))

    def __iter__(self) -> Iterator[TrainingConversation]:
        return (self[index] for index in range(len(self)))


FIELDS = ("messages", "source", "topic", "weight", "tools", "file", "line")
"""Of TrainingConversation, in the order of its arguments."""
