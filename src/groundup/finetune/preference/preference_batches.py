"""Batches of responses for preference tuning: pairs of a chosen and a rejected response, or single ones with a label.

A pure function of (seed, step). A response is a rendered conversation whose last answer has a loss; rows are padded on the
right, and a batch holds rows of similar length.

    pairs      tokens, mask (N 2T): the chosen response, then the rejected one; lengths, reference (N 2)
    singles    tokens, mask (N T); desirable (N); reference (N); with kl_ before it: the answer to another prompt
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.finetune.chat_batches import MIN_SEQUENCE_LENGTH, batches_by_length, grouped_steps, shuffled_rows
from groundup.finetune.template_messages import template_messages
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import Batch

Message = Mapping[str, Any]


class EncodedResponse(NamedTuple):
    """The ids of a conversation, and 1 for each that belongs to its last answer, else 0."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the answer, with its end-of-turn token."""
        return sum(self.mask)


class ResponsePair(NamedTuple):
    """Two responses to one prompt."""

    chosen: EncodedResponse
    rejected: EncodedResponse


def encode_response(
    tokenizer: Tokenizer,
    prompt: Sequence[Message],
    completion: Sequence[Message],
    max_tokens: int,
    tools: Sequence[Any] = (),
) -> EncodedResponse | None:
    """The prompt and the completion, which begins with an assistant's message, as tokens; None beyond `max_tokens`.

    Raises UserError if the chat template refuses them, and RecordDropped for tool calls that it leaves out.
    """
    given = [{**message, "weight": 0} for message in prompt]  # only the completion is learnt
    names: dict[str, Any] = {"tools": list(tools)} if tools else {}
    ids, mask = tokenizer.render_chat_with_mask(template_messages(tokenizer, [*given, *map(dict, completion)]), **names)
    return EncodedResponse(tuple(ids), tuple(mask)) if len(ids) <= max_tokens else None


class LengthGroups:
    """Rows of similar length for each step; a pure function of (seed, step).

    Attributes:
        num_rows: rows in one epoch.
        batch_rows: rows in one batch: as many as have `batch_tokens` tokens on average, at least `least`.
        sequence_length: mean tokens of a row.
    """

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int, least: int = 1):
        if not lengths:
            raise UserError("no preferences to train on", hint="see preference.sources")
        self.lengths, self.num_rows, self.seed = lengths, len(lengths), seed
        self.sequence_length = max(MIN_SEQUENCE_LENGTH, round(sum(lengths) / self.num_rows))
        self.batch_rows = min(max(least, batch_tokens // self.sequence_length), self.num_rows)
        self._group: tuple[int, list[list[int]]] = (-1, [])

    def rows(self, step: int) -> list[int]:
        """The rows of the batch of `step`."""
        size = grouped_steps(self.num_rows, self.batch_rows)
        group, position = divmod(step, size)
        if self._group[0] != group:
            rows = [row for _, row in shuffled_rows(group, size * self.batch_rows, self.num_rows, self.seed)]
            order = batches_by_length([self.lengths[row] for row in rows], size, self.seed, group)
            self._group = (group, [[rows[index] for index in batch] for batch in order])
        return self._group[1][position]

    def in_order(self) -> list[range]:
        """Every row once, in order."""
        rows = range(self.num_rows)
        return [rows[begin : begin + self.batch_rows] for begin in rows[:: self.batch_rows]]


class PairBatches(LengthGroups):
    """Batches of pairs.

    Args:
        reference: log-probabilities of the chosen and the rejected responses under the reference, sums over their tokens;
            zeros without one.
    """

    def __init__(
        self,
        pairs: Sequence[ResponsePair],
        reference: Float[Tensor, "N 2"] | None,
        batch_tokens: int,
        seed: int,
        pad_id: int,
    ):
        super().__init__([2 * max(len(response.ids) for response in pair) for pair in pairs], batch_tokens, seed)
        self.pairs, self.pad_id = pairs, pad_id
        self.reference = torch.zeros(len(pairs), 2) if reference is None else reference

    def batch(self, step: int) -> Batch:
        return self._tensors(self.rows(step))

    def first_epoch(self) -> list[Batch]:
        """Every pair once, in order: for validation."""
        return [self._tensors(rows) for rows in self.in_order()]

    def _tensors(self, rows: Sequence[int]) -> Batch:
        tokens, mask = pad_responses([response for row in rows for response in self.pairs[row]], self.pad_id)
        shape = (len(rows), 2 * tokens.shape[1])
        lengths = torch.tensor([[len(response.ids) for response in self.pairs[row]] for row in rows])
        return {
            "tokens": tokens.view(shape), "mask": mask.view(shape), "lengths": lengths, "reference": self.reference[list(rows)]
        }  # fmt: skip


class LabelledBatches(LengthGroups):
    """Batches of single responses, each with the same answer to another prompt, by which the KL divergence is estimated.

    Args:
        desirable: whether each response is a good one.
        mismatched: the same answers to other prompts.
        reference, kl_reference: log-probabilities of both under the reference, sums over their tokens.
    """

    def __init__(
        self,
        responses: Sequence[EncodedResponse],
        desirable: Bool[Tensor, " N"],
        mismatched: Sequence[EncodedResponse],
        reference: Float[Tensor, " N"],
        kl_reference: Float[Tensor, " N"],
        batch_tokens: int,
        seed: int,
        pad_id: int,
    ):
        super().__init__([len(response.ids) for response in responses], batch_tokens, seed, least=2)
        self.responses, self.desirable, self.mismatched = responses, desirable, mismatched
        self.reference, self.kl_reference, self.pad_id = reference, kl_reference, pad_id

    def batch(self, step: int) -> Batch:
        return self._tensors(self.rows(step))

    def first_epoch(self) -> list[Batch]:
        """Every response once, in order: for validation."""
        return [self._tensors(rows) for rows in self.in_order()]

    def _tensors(self, rows: Sequence[int]) -> Batch:
        tokens, mask = pad_responses([self.responses[row] for row in rows], self.pad_id)
        kl_tokens, kl_mask = pad_responses([self.mismatched[row] for row in rows], self.pad_id)
        index = list(rows)
        return {
            "tokens": tokens, "mask": mask, "desirable": self.desirable[index], "reference": self.reference[index],
            "kl_tokens": kl_tokens, "kl_mask": kl_mask, "kl_reference": self.kl_reference[index],
        }  # fmt: skip


def pad_responses(responses: Sequence[EncodedResponse], pad_id: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Tokens and masks of the responses, padded to the longest."""
    length = max(len(response.ids) for response in responses)
    tokens = [[*response.ids, *[pad_id] * (length - len(response.ids))] for response in responses]
    mask = [[*response.mask, *[0] * (length - len(response.mask))] for response in responses]
    return torch.tensor(tokens), torch.tensor(mask)
