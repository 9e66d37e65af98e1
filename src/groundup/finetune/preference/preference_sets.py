"""Preferences and labelled answers as tokens, and their batches with the log-probabilities of the reference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.finetune.preference.preference_batches import (
    EncodedResponse,
    LabelledBatches,
    PairBatches,
    ResponsePair,
    encode_response,
)
from groundup.finetune.training_data.preference_data import (
    LabelledAnswer,
    Preference,
    labelled_answers_of,
    preferences_of,
)
from groundup.finetune.training_data.read_stats import DROP_REASONS, RecordDropped
from groundup.tokenizer import Tokenizer
from groundup.train.sequence_order import feistel_permutation

SHAPES = {
    False: "prompt, chosen and rejected: texts or lists of messages",
    True: "prompt, completion and label, or prompt, chosen and rejected: texts or lists of messages",
}
"""Fields of a dict; the key: whether labelled answers are wanted."""

LogProbs = Callable[[Sequence[EncodedResponse], str], Float[Tensor, " N"]]
"""(responses, name of the set) -> their log-probabilities under the reference."""

PreferenceItem = Preference | LabelledAnswer
EncodedItem = ResponsePair | EncodedResponse


def parse_preference(item: Any, labelled: bool, name: str) -> Sequence[PreferenceItem]:
    """The preference of a dict or Preference, or its labelled answers. Raises UserError with `name` if there is none."""
    if isinstance(item, Mapping):
        fields = {str(key).lower(): value for key, value in item.items()}
        try:
            return list(labelled_answers_of(fields) if labelled else preferences_of(fields))
        except RecordDropped as reason:
            raise UserError(f"{name}: {DROP_REASONS[str(reason)]}", hint=f"expected {SHAPES[labelled]}") from None
    if labelled and isinstance(item, Preference):
        answers = ((item.chosen, True), (item.rejected, False))
        return [LabelledAnswer(item.prompt, answer, label, item.source, tools=item.tools) for answer, label in answers]
    if isinstance(item, LabelledAnswer if labelled else Preference):
        return [item]
    raise UserError(f"{name} is a {type(item).__name__}, expected a dict with {SHAPES[labelled]}")


def encode_preferences(
    items: Sequence[PreferenceItem], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, str]]]:
    """(items with their tokens, dropped items with the reason, one of DROP_REASONS)."""
    kept, dropped = [], []
    for item in items:
        answers = (item.chosen, item.rejected) if isinstance(item, Preference) else (item.completion,)
        try:
            responses = [encode_response(tokenizer, item.prompt, answer, max_tokens, item.tools) for answer in answers]
        except RecordDropped as reason:
            dropped.append((item, str(reason)))
            continue
        except UserError:
            if tokenizer.chat_template is None:
                raise
            dropped.append((item, "refused"))
            continue
        fitting = [response for response in responses if response is not None]
        if len(fitting) < len(answers):
            dropped.append((item, "too_long"))
        elif len(fitting) == 2 and fitting[0] == fitting[1]:
            dropped.append((item, "same_answers"))
        else:
            kept.append((item, ResponsePair(*fitting) if len(fitting) == 2 else fitting[0]))
    return kept, dropped


def responses_of(encoded: EncodedItem) -> Sequence[EncodedResponse]:
    """The responses of a pair, or the one response."""
    return encoded if isinstance(encoded, ResponsePair) else (encoded,)


def make_pair_batches(
    items: Sequence[tuple[Preference, ResponsePair]],
    log_probs: LogProbs | None,
    name: str,
    *,
    batch_tokens: int,
    seed: int,
    pad_id: int,
) -> PairBatches:
    """Batches of pairs. `log_probs`: None for a loss without a reference."""
    pairs = [pair for _, pair in items]
    reference = None
    if log_probs is not None:
        reference = log_probs([response for pair in pairs for response in pair], name).view(-1, 2)
    return PairBatches(pairs, reference, batch_tokens, seed, pad_id)


def make_labelled_batches(
    items: Sequence[tuple[LabelledAnswer, EncodedResponse]],
    log_probs: LogProbs,
    name: str,
    *,
    tokenizer: Tokenizer,
    max_tokens: int,
    batch_tokens: int,
    seed: int,
    pad_id: int,
) -> LabelledBatches:
    """Batches of labelled answers; each prompt also has the answer to another one."""
    responses = [response for _, response in items]
    mismatched = []
    for (item, _), partner in zip(items, mismatched_rows([repr(item.prompt) for item, _ in items], seed), strict=True):
        response = encode_response(tokenizer, item.prompt, items[partner][0].completion, 1 << 62, item.tools)
        assert response is not None
        mismatched.append(EncodedResponse(response.ids[:max_tokens], response.mask[:max_tokens]))
    reference = log_probs([*responses, *mismatched], name)
    desirable = torch.tensor([item.desirable for item, _ in items])
    return LabelledBatches(
        responses, desirable, mismatched, reference[: len(items)], reference[len(items) :], batch_tokens, seed, pad_id
    )


def mismatched_rows(prompts: Sequence[str], seed: int) -> list[int]:
    """For each row another one, in random order, whose prompt differs if any does."""
    count = len(prompts)
    order = feistel_permutation(np.arange(count), count, seed, epoch=0).tolist()
    partners = [0] * count
    for place, row in enumerate(order):
        ahead = (order[(place + offset) % count] for offset in range(1, count))
        partners[row] = next((other for other in ahead if prompts[other] != prompts[row]), order[(place + 1) % count])
    return partners
