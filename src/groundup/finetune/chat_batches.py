"""Conversations to batches: several in a row, each seen by itself, with a loss on what the assistant says.

A pure function of (seed, step). Which conversations share a row is settled once; the rows' order, and which
variant of a conversation is shown, change with the epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.data.stable_hash import hash_fraction
from groundup.finetune.augment import Turns, augmented_turns
from groundup.finetune.conversations import TrainingConversation
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import IGNORE_INDEX
from groundup.train.token_batches import feistel_permutation


@dataclass(frozen=True)
class EncodedConversation:
    """One conversation in all its variants: ids, and a mask that is 1 where the assistant speaks."""

    variants: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    weight: float = 1.0

    @property
    def max_tokens(self) -> int:
        return max(len(ids) for ids, _ in self.variants)


def encode_conversation(
    conversation: TrainingConversation,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    augment_user_turns: bool = False,
) -> EncodedConversation | None:
    """The conversation as tokens, without its last turns where it is too long; None where no answer fits.

    Raises UserError when the tokenizer has no chat template.
    """
    turns = conversation.turns
    while True:
        shown = augmented_turns(TrainingConversation(turns, "", "")) if augment_user_turns else [turns]
        found = tuple(_render(tokenizer, variant) for variant in shown)
        if max(len(ids) for ids, _ in found) <= max_tokens:
            return EncodedConversation(found, conversation.weight)
        turns = turns[:-2]
        if not turns or turns[-1][0] != "assistant":
            return None


def _render(tokenizer: Tokenizer, turns: Turns) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ids, mask = tokenizer.render_chat_with_mask([{"role": role, "content": text} for role, text in turns])
    return tuple(ids), tuple(mask)


class ChatBatches:
    """Batches of conversations, packed into rows.

    Attributes:
        num_rows: rows of one epoch.

    Args:
        sequence_length: tokens of a row; no conversation may be longer.
        batch_rows: rows of one batch.
        pad_id: what fills a row's end; nothing is learned from it.

    Raises UserError when there are no conversations.
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
            raise UserError("no conversations to learn from", hint="see finetune.conversations")
        self.conversations, self.sequence_length, self.batch_rows = conversations, sequence_length, batch_rows
        self.seed, self.pad_id = seed, pad_id
        shown = repeat_by_weight(conversations, seed)
        order = feistel_permutation(np.arange(len(shown)), len(shown), seed, epoch=0)
        self.rows = pack_first_fit(
            [shown[place] for place in order], lambda index: conversations[index].max_tokens, sequence_length
        )
        self.num_rows = len(self.rows)

    def batch(self, step: int) -> dict[str, Tensor]:
        """`tokens`, `labels` and `documents`, int64 (B T). Labels are -100 but for the assistant's words."""
        positions = step * self.batch_rows + np.arange(self.batch_rows)
        epochs, places = np.divmod(positions, self.num_rows)
        chosen = [
            (
                int(epoch),
                int(feistel_permutation(np.array([place]), self.num_rows, self.seed + 1, int(epoch))[0]),
            )
            for epoch, place in zip(epochs, places, strict=True)
        ]
        return self._tensors([self._row(row, epoch) for epoch, row in chosen])

    def first_epoch(self) -> list[dict[str, Tensor]]:
        """Every row once, in first variants and in order: what held-out conversations are scored on."""
        rows = [[self.conversations[index].variants[0] for index in row] for row in self.rows]
        return [self._tensors(rows[i : i + self.batch_rows]) for i in range(0, len(rows), self.batch_rows)]

    def _row(self, row: int, epoch: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The conversations of a row in the variants that this epoch shows."""
        shown = []
        for place, index in enumerate(self.rows[row]):
            choices = self.conversations[index].variants
            shown.append(choices[int(hash_fraction(f"{epoch} {row} {place}", self.seed) * len(choices))])
        return shown

    def _tensors(self, rows: list[list[tuple[tuple[int, ...], tuple[int, ...]]]]) -> dict[str, Tensor]:
        tokens = torch.full((len(rows), self.sequence_length), self.pad_id)
        labels = torch.full_like(tokens, IGNORE_INDEX)
        documents = torch.zeros_like(tokens)  # 0 is the padding behind the last conversation
        for number, row in enumerate(rows):
            begin = 0
            for document, (ids, mask) in enumerate(row, start=1):
                span = slice(begin, begin + len(ids))
                words = torch.tensor(ids)
                tokens[number, span] = words
                labels[number, span] = torch.where(torch.tensor(mask) == 1, words, IGNORE_INDEX)
                documents[number, span] = document
                begin += len(ids)
        return {"tokens": tokens, "labels": labels, "document_ids": documents}


def pack_first_fit(items: Sequence[int], length_of: Callable[[int], int], capacity: int) -> list[list[int]]:
    """Items into rows of at most `room`, each into the first of the last few rows that still has space for
    it.
    """
    rows: list[list[int]] = []
    spaces: list[int] = []
    for item in items:
        length = length_of(item)
        open_rows = range(max(0, len(rows) - MAX_OPEN_ROWS), len(rows))
        place = next((row for row in open_rows if spaces[row] >= length), None)
        if place is None:
            rows.append([])
            spaces.append(capacity)
            place = len(rows) - 1
        rows[place].append(item)
        spaces[place] -= length
    return rows


MAX_OPEN_ROWS = 64
"""Rows that are looked at for space: first-fit wastes little, and all rows would take quadratic time."""


def repeat_by_weight(conversations: Sequence[EncodedConversation], seed: int) -> list[int]:
    """Indices, each as often as its weight says; a fraction of a copy by chance."""
    return [
        index
        for index, conversation in enumerate(conversations)
        for _ in range(int(conversation.weight + hash_fraction(f"copy {index}", seed)))
    ]
