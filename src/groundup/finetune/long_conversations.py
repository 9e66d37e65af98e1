"""Conversations longer than a row: dropped, cut after an answer, or split into pieces. Never within an answer.

A model that learns an answer without its end does not learn to stop. `cut` keeps the longest beginning that ends with an
answer: what is learnt there is true to the whole conversation. `split` keeps all turns, without what was said before a piece.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

from groundup.data.chat_message import Message
from groundup.finetune.encoded_conversations import EncodedConversation
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.finetune.training_data.read_stats import RecordDropped

LongConversations = Literal["drop", "cut", "split"]
Encode = Callable[[TrainingConversation], EncodedConversation]
Length = Callable[[EncodedConversation], int]
"""Tokens of a row that a conversation needs."""
Piece = tuple[TrainingConversation, EncodedConversation]


def fit_conversation(
    conversation: TrainingConversation, encode: Encode, length: Length, max_tokens: int, choice: LongConversations
) -> list[Piece]:
    """The conversation with its tokens, at most `max_tokens`; what is left of a longer one, by `choice`.

    Raises RecordDropped for one of which nothing is left.
    """
    encoded = encode(conversation)
    if length(encoded) <= max_tokens:
        if not _has_loss(encoded):
            raise RecordDropped("nothing_learnt")
        return [(conversation, encoded)]
    pieces: list[Piece] = []
    if choice == "cut":
        pieces = list(islice(_beginnings(conversation, encode, length, max_tokens), 1))
    elif choice == "split":
        pieces = list(_pieces(conversation, encode, length, max_tokens))
    if not pieces:
        raise RecordDropped("too_long")
    return pieces


def _beginnings(conversation: TrainingConversation, encode: Encode, length: Length, max_tokens: int) -> Iterator[Piece]:
    """The longest beginning that ends with an answer, fits and has something to learn, found by halving."""
    messages = conversation.messages
    ends = answer_ends(messages)
    fitting = bisect_right(ends, max_tokens, key=lambda end: length(encode(_part(conversation, messages[:end]))))
    for end in reversed(ends[:fitting]):
        part = _part(conversation, messages[:end])
        if any(message["role"] == "user" for message in part.messages) and _has_loss(encoded := encode(part)):
            yield part, encoded


def _pieces(conversation: TrainingConversation, encode: Encode, length: Length, max_tokens: int) -> Iterator[Piece]:
    """Pieces of whole exchanges, each after the system message; an exchange that does not fit is left out."""
    messages = conversation.messages
    head = [message for message in messages[:1] if message["role"] in ("system", "developer")]
    ends = [end for end in answer_ends(messages) if end == len(messages) or messages[end]["role"] == "user"]
    begin = len(head)
    for position, end in enumerate(ends):
        if end <= begin:
            continue
        following = ends[position:]
        fitting = bisect_right(
            following, max_tokens, key=lambda stop: length(encode(_part(conversation, head + messages[begin:stop])))
        )
        stop = following[fitting - 1] if fitting else end
        part = _part(conversation, head + messages[begin:stop])
        if fitting and _has_loss(encoded := encode(part)):
            yield part, encoded
        begin = stop


def answer_ends(messages: Sequence[Message]) -> list[int]:
    """The positions after each answer of the assistant that calls no function."""
    return [
        index + 1
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and (not message.get("tool_calls") or index + 1 == len(messages))
    ]


def _part(conversation: TrainingConversation, messages: Sequence[Message]) -> TrainingConversation:
    return replace(conversation, messages=list(messages))


def _has_loss(encoded: EncodedConversation) -> bool:
    return all(mask.any() for _, mask in encoded.variants)
