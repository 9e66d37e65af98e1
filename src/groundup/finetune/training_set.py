"""Conversations and their tokens, as they are learnt: what is too long is cut, what cannot be encoded is counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.data.conversation_shapes import turns
from groundup.finetune.encoded_conversations import EncodedConversation, EncodedStore
from groundup.finetune.long_conversations import Length, LongConversations, fit_conversation
from groundup.finetune.training_data.conversation_store import ConversationStore, TrainingConversation
from groundup.finetune.training_data.conversations import conversation_of
from groundup.finetune.training_data.read_stats import DROP_REASONS, ReadStats, RecordDropped

MESSAGES = 'a list of {"role", "content"} messages'


@dataclass(frozen=True)
class TrainingSet:
    """The conversations that are learnt, as they are learnt, and their tokens, in the same order."""

    conversations: ConversationStore
    encoded: EncodedStore

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return max((each.max_tokens for each in self.encoded), default=0)

    @property
    def tokens(self) -> float:
        """Tokens in one epoch."""
        return sum(each.weight * len(each.variants[0][0]) for each in self.encoded)

    @property
    def answer_tokens(self) -> int:
        """Tokens with a loss."""
        return sum(int(each.variants[0][1].sum()) for each in self.encoded)


def encode_training_set(
    conversations: Sequence[TrainingConversation | Sequence[Mapping[str, Any]]],
    encode: Callable[[TrainingConversation], EncodedConversation],
    vocab_size: int,
    max_tokens: int,
    long_conversations: LongConversations,
    stats: ReadStats,
    length: Length = attrgetter("max_tokens"),
) -> TrainingSet:
    """The set of `conversations`, in their order; `length`: tokens of a row that each needs.

    A conversation that the chat template refuses is dropped and counted, like one of which no answer fits; if all are
    refused, that is an error of the template. Raises UserError for lists of messages that are none.
    """
    found = TrainingSet(ConversationStore(), EncodedStore(vocab_size))
    refusal: UserError | None = None
    for conversation in _checked(conversations):
        try:
            pieces = fit_conversation(conversation, encode, length, max_tokens, long_conversations)
        except RecordDropped as reason:
            _count(stats.drop, str(reason), conversation)
            continue
        except UserError as error:
            refusal = refusal or error
            _count(stats.drop, "refused", conversation)
            continue
        if len(pieces) > 1 or len(pieces[0][0].messages) < len(conversation.messages):
            _count(stats.change, long_conversations, conversation)
        for piece, encoded in pieces:
            found.conversations.append(piece)
            found.encoded.append(encoded)
    if refusal is not None and not found.encoded:
        raise refusal
    return found


def _checked(conversations: Sequence[Any]) -> Iterator[TrainingConversation]:
    for index, item in enumerate(conversations):
        if isinstance(item, TrainingConversation):
            yield item
            continue
        if isinstance(item, dict | str) or not isinstance(item, Sequence):
            raise UserError(f"conversations[{index}] is a {type(item).__name__}, expected {MESSAGES}")
        try:
            if (messages := turns(list(item))) is None:
                raise RecordDropped("malformed")
            yield conversation_of(messages)[0]
        except RecordDropped as reason:
            raise UserError(
                f"conversations[{index}]: {DROP_REASONS[str(reason)]}", hint=f"expected {MESSAGES}"
            ) from None


def _count(count: Callable[..., None], reason: str, conversation: TrainingConversation) -> None:
    count(reason, conversation.messages, conversation.source, conversation.file, conversation.line)
