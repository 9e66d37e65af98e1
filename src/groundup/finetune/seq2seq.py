"""Sequence-to-sequence fine-tuning of an encoder-decoder (Sutskever et al. 2014, Raffel et al. 2020).

The encoder reads the first user turn, and the decoder learns to write the answer, as in translation.
"""

from collections.abc import Sequence

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.finetune.chat_batches import (
    EncodedConversation,
    batches_by_length,
    grouped_steps,
    repeat_by_weight,
    shuffled_rows,
)
from groundup.finetune.conversations import TrainingConversation
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import seq2seq_batch


def encode_seq2seq(
    conversation: TrainingConversation, tokenizer: Tokenizer, max_tokens: int, *, augment_user_turns: bool = False
) -> EncodedConversation | None:
    """The first user turn (mask 0) and its answer (mask 1) as tokens; None if one does not fit with its end-of-text token.

    `augment_user_turns` has no effect: the case and punctuation of a text to translate matter.
    """
    texts = [text for role, text in conversation.turns if role != "system"]
    source, target = (tuple(tokenizer.encode(text)) for text in texts[:2])
    if not source or not target or max(len(source), len(target)) >= max_tokens:
        return None
    mask = (0,) * len(source) + (1,) * len(target)
    return EncodedConversation(((source + target, mask),), conversation.weight)


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
        self.pairs = [_split_pair(pairs[index]) for index in repeat_by_weight(pairs, seed)]
        self.num_rows = len(self.pairs)
        mean = sum(len(source) + 1 for source, _ in self.pairs) / self.num_rows
        self.batch_rows = max(1, round(batch_rows * sequence_length / mean))
        self._group: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, step: int) -> dict[str, Tensor]:
        """One batch: `tokens` and `document_ids` (B S), which are 0 at padding, and `labels` (B T), -100 at padding."""
        size = grouped_steps(self.num_rows, self.batch_rows)
        group, position = divmod(step, size)
        if self._group[0] != group:
            rows = [row for _, row in shuffled_rows(group, size * self.batch_rows, self.num_rows, self.seed)]
            lengths = [max(map(len, self.pairs[row])) for row in rows]
            order = batches_by_length(lengths, size, self.seed, group)
            self._group = (group, [[rows[index] for index in batch] for batch in order])
        return self._tensors(self._group[1][position])

    def first_epoch(self) -> list[dict[str, Tensor]]:
        """Every pair once, in order: for validation."""
        rows = range(self.num_rows)
        return [self._tensors(rows[i : i + self.batch_rows]) for i in range(0, self.num_rows, self.batch_rows)]

    def _tensors(self, rows: Sequence[int]) -> dict[str, Tensor]:
        sources, targets = zip(*(self.pairs[row] for row in rows), strict=True)
        return seq2seq_batch(sources, targets, pad_id=self.pad_id, eos_id=self.eos_id)


def _split_pair(pair: EncodedConversation) -> tuple[list[int], list[int]]:
    ids, mask = pair.variants[0]
    begin = mask.index(1)
    return list(ids[:begin]), list(ids[begin:])
