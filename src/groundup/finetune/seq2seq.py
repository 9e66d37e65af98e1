"""Sequence-to-sequence fine-tuning of an encoder-decoder (Sutskever et al. 2014, Raffel et al. 2020).

The encoder reads the first user turn, and the decoder learns to write the answer, as in translation.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.finetune.chat_batches import batches_by_length, grouped_steps, repeat_by_weight, shuffled_rows
from groundup.finetune.encoded_conversations import EncodedConversation
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.finetune.training_data.read_stats import RecordDropped
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import seq2seq_batch


def encode_seq2seq(
    conversation: TrainingConversation, tokenizer: Tokenizer, *, augment_user_turns: bool = False
) -> EncodedConversation:
    """The first user turn (mask 0) and its answer (mask 1) as tokens.

    `augment_user_turns` has no effect: the case and punctuation of a text to translate matter. Raises RecordDropped if one
    of the two has no tokens.
    """
    if not any(message["role"] == "user" for message in conversation.messages):
        raise RecordDropped("malformed")
    source, target = (np.array(tokenizer.encode(text)) for text in (conversation.opening, conversation.answer))
    if not len(source) or not len(target):
        raise RecordDropped("empty_turn")
    mask = np.repeat(np.array([0, 1], np.uint8), [len(source), len(target)])
    return EncodedConversation(((np.concatenate([source, target]), mask),), conversation.weight)


class Seq2SeqBatches:
    """Batches of pairs of similar length, padded to the longest of the batch; a pure function of (seed, step).

    Attributes:
        num_rows: pairs in one epoch.

    Args:
        sequence_length: maximum tokens of a text; a batch has as many pairs as fill `batch_rows` rows of this length with
            their sources on average.

    Raises UserError if there are no pairs.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedConversation],
        sequence_length: int,
        batch_rows: int,
        seed: int,
        pad_id: int,
        eos_id: int,
    ):
        if not pairs:
            raise UserError("no conversations to train on", hint="see finetune.conversations")
        self.sequence_length, self.seed, self.pad_id, self.eos_id = sequence_length, seed, pad_id, eos_id
        self.pairs, self.rows = pairs, repeat_by_weight(pairs, seed)
        self.num_rows = len(self.rows)
        lengths = {row: tuple(map(len, _split_pair(pairs[row]))) for row in set(self.rows)}
        self._longer = [max(lengths[row]) for row in self.rows]
        mean = sum(lengths[row][0] + 1 for row in self.rows) / self.num_rows
        self.batch_rows = max(1, round(batch_rows * sequence_length / mean))
        self._group: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, step: int) -> dict[str, Tensor]:
        """One batch: `tokens` and `document_ids` (B S), which are 0 at padding, and `labels` (B T), -100 at padding."""
        size = grouped_steps(self.num_rows, self.batch_rows)
        group, position = divmod(step, size)
        if self._group[0] != group:
            rows = [row for _, row in shuffled_rows(group, size * self.batch_rows, self.num_rows, self.seed)]
            lengths = [self._longer[row] for row in rows]
            order = batches_by_length(lengths, size, self.seed, group)
            self._group = (group, [[rows[index] for index in batch] for batch in order])
        return self._tensors(self._group[1][position])

    def first_epoch(self) -> list[dict[str, Tensor]]:
        """Every pair once, in order: for validation."""
        rows = range(self.num_rows)
        return [self._tensors(rows[i : i + self.batch_rows]) for i in range(0, self.num_rows, self.batch_rows)]

    def _tensors(self, rows: Sequence[int]) -> dict[str, Tensor]:
        sources, targets = zip(*(_split_pair(self.pairs[self.rows[row]]) for row in rows), strict=True)
        return seq2seq_batch(sources, targets, pad_id=self.pad_id, eos_id=self.eos_id)


def pair_length(pair: EncodedConversation) -> int:
    """Tokens of the longer text, with its end-of-text token."""
    return max(map(len, _split_pair(pair))) + 1


def _split_pair(pair: EncodedConversation) -> tuple[list[int], list[int]]:
    ids, mask = pair.variants[0]
    begin = int(mask.argmax())
    return ids[:begin].tolist(), ids[begin:].tolist()
