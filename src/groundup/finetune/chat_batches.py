"""Batches of conversations: several in a sequence, attention within each, loss on the assistant's tokens.

A pure function of (seed, step). Conversations are packed into rows once; the order of rows and the variant of each
conversation change with the epoch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.data.conversation_shapes import Messages
from groundup.data.stable_hash import hash_fraction
from groundup.finetune.encoded_conversations import EncodedConversation, Variant
from groundup.finetune.template_messages import check_template, template_messages
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.model.loss import IGNORE_INDEX
from groundup.tokenizer import Tokenizer
from groundup.train.sequence_order import feistel_permutation


def encode_conversation(
    conversation: TrainingConversation, tokenizer: Tokenizer, *, augment_user_turns: bool = False
) -> EncodedConversation:
    """The conversation as tokens, and its variants.

    Raises UserError if the tokenizer has no chat template, or that refuses the conversation, and RecordDropped for tool calls
    that it leaves out.
    """
    variants = augmented_turns(conversation.messages) if augment_user_turns else [conversation.messages]
    rendered = tuple(_render(tokenizer, messages, conversation.tools) for messages in variants)
    return EncodedConversation(rendered, conversation.weight)


def _render(tokenizer: Tokenizer, messages: Messages, tools: Sequence[Any]) -> Variant:
    check_template(tokenizer)
    names: dict[str, Any] = {"tools": list(tools)} if tools else {}
    ids, mask = tokenizer.render_chat_with_mask(template_messages(tokenizer, messages), **names)
    return np.array(ids), np.array(mask, np.uint8)


def augmented_turns(messages: Messages) -> list[Messages]:
    """The messages, with user turns in lower case, without final punctuation, and both; without duplicates."""
    changes = (str, str.lower, strip_final_punctuation, lambda text: strip_final_punctuation(text.lower()))
    variants: list[Messages] = []
    for change in changes:
        variant = [each | {"content": change(each["content"])} if each["role"] == "user" else each for each in messages]
        if variant not in variants:
            variants.append(variant)
    return variants


def strip_final_punctuation(text: str) -> str:
    """ "How are you?" -> "How are you"; a text of marks alone stays."""
    return text.rstrip(".?! ") or text


class ChatBatches:
    """Batches of conversations, packed into rows.

    Attributes:
        num_rows: rows of one epoch.

    Args:
        sequence_length: tokens of a row; no conversation may be longer.
        batch_rows: rows of one batch.
        pad_id: token of the padding, which has no loss.

    Raises UserError if there are no conversations.
    """

    def __init__(
        self,
        conversations: Sequence[EncodedConversation],
        sequence_length: int,
        batch_rows: int,
        seed: int,
        pad_id: int,
    ):
        if not conversations:
            raise UserError("no conversations to train on", hint="see finetune.conversations")
        self.conversations, self.sequence_length, self.batch_rows = conversations, sequence_length, batch_rows
        self.seed, self.pad_id = seed, pad_id
        indices = repeat_by_weight(conversations, seed)
        order = feistel_permutation(np.arange(len(indices)), len(indices), seed, epoch=0)
        self.rows = pack_first_fit(
            [indices[position] for position in order], lambda index: conversations[index].max_tokens, sequence_length
        )
        self.num_rows = len(self.rows)

    def batch(self, step: int) -> dict[str, Tensor]:
        """`tokens`, `labels` and `document_ids`, int64 (B T). Labels are -100 except at the assistant's tokens."""
        rows = shuffled_rows(step, self.batch_rows, self.num_rows, self.seed + 1)
        return self._tensors([self._row(row, epoch) for epoch, row in rows])

    def first_epoch(self) -> list[dict[str, Tensor]]:
        """Every row once, in order, with the first variant of each conversation: for validation."""
        rows = [[self.conversations[index].variants[0] for index in row] for row in self.rows]
        return [self._tensors(rows[i : i + self.batch_rows]) for i in range(0, len(rows), self.batch_rows)]

    def _row(self, row: int, epoch: int) -> list[Variant]:
        """The conversations of a row, in the variants of the epoch."""
        conversations = []
        for position, index in enumerate(self.rows[row]):
            variants = self.conversations[index].variants
            fraction = hash_fraction(f"{epoch} {row} {position}", self.seed)
            conversations.append(variants[int(fraction * len(variants))])
        return conversations

    def _tensors(self, rows: Sequence[Sequence[Variant]]) -> dict[str, Tensor]:
        tokens = torch.full((len(rows), self.sequence_length), self.pad_id)
        labels = torch.full_like(tokens, IGNORE_INDEX)
        document_ids = torch.zeros_like(tokens)  # 0 is padding
        for index, row in enumerate(rows):
            begin = 0
            for document, (ids, mask) in enumerate(row, start=1):
                span = slice(begin, begin + len(ids))
                token_ids = torch.from_numpy(ids.astype(np.int64))
                tokens[index, span] = token_ids
                labels[index, span] = torch.where(torch.from_numpy(mask) == 1, token_ids, IGNORE_INDEX)
                document_ids[index, span] = document
                begin += len(ids)
        return {"tokens": tokens, "labels": labels, "document_ids": document_ids}


def shuffled_rows(step: int, batch_rows: int, num_rows: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, row) of each row in the batch of `step`; every epoch has another order."""
    epochs, indices = np.divmod(step * batch_rows + np.arange(batch_rows), num_rows)
    return [
        (epoch, int(feistel_permutation(np.array([index]), num_rows, seed, epoch)[0]))
        for epoch, index in zip(epochs.tolist(), indices.tolist(), strict=True)
    ]


def grouped_steps(num_rows: int, batch_rows: int) -> int:
    """Steps whose rows are sorted by length together: at most GROUPED_STEPS, and no more than one epoch has."""
    return max(1, min(GROUPED_STEPS, num_rows // batch_rows))


def batches_by_length(lengths: Sequence[int], steps: int, seed: int, group: int) -> list[list[int]]:
    """Indices of `lengths` in one batch a step, of similar lengths, in random order: little padding.

    The longest batch is the first of group 0: the size of the micro-batches is chosen by its memory.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    order = feistel_permutation(np.arange(steps), steps, seed + 1, group).tolist()
    if group == 0:
        order.remove(0)
        order.insert(0, 0)
    rows = len(lengths) // steps
    return [by_length[number * rows : (number + 1) * rows] for number in order]


def pack_first_fit(items: Sequence[int], length_of: Callable[[int], int], capacity: int) -> list[list[int]]:
    """Pack items into rows of at most `capacity`, each into the first of the last MAX_OPEN_ROWS rows with enough space."""
    rows: list[list[int]] = []
    spaces: list[int] = []
    for item in items:
        length = length_of(item)
        open_rows = range(max(0, len(rows) - MAX_OPEN_ROWS), len(rows))
        row = next((index for index in open_rows if spaces[index] >= length), None)
        if row is None:
            rows.append([])
            spaces.append(capacity)
            row = len(rows) - 1
        rows[row].append(item)
        spaces[row] -= length
    return rows


GROUPED_STEPS = 16

MIN_SEQUENCE_LENGTH = 8
"""Of train.sequence_length."""

MAX_OPEN_ROWS = 64
"""First-fit over all rows would take quadratic time."""


def repeat_by_weight(conversations: Sequence[EncodedConversation], seed: int) -> list[int]:
    """Each index as often as its weight; fractions are rounded by a hash."""
    return [
        index
        for index, conversation in enumerate(conversations)
        for _ in range(int(conversation.weight + hash_fraction(f"copy {index}", seed)))
    ]
