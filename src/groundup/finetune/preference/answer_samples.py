"""Sampled answers of a model to held-out prompts: their length, and the KL divergence of the model from its reference."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from groundup.finetune.preference.preference_batches import EncodedResponse
from groundup.finetune.template_messages import prompt_ids
from groundup.finetune.training_data.preference_data import LabelledAnswer, Preference
from groundup.generate import SamplingParams, generate_many
from groundup.plan.defaults.preference_defaults import MAX_SAMPLED_ANSWERS, MAX_SAMPLED_TOKENS
from groundup.tokenizer import Tokenizer


def sample_answers(
    model: Any, tokenizer: Tokenizer, items: Sequence[Preference | LabelledAnswer], seed: int
) -> list[EncodedResponse]:
    """One answer, sampled at temperature 1, to each of at most MAX_SAMPLED_ANSWERS different prompts of `items` that fit."""
    different = list({repr(item.prompt): item for item in items}.values())
    chosen = different[:: max(1, -(-len(different) // MAX_SAMPLED_ANSWERS))]
    length = min(MAX_SAMPLED_TOKENS, model.config.context_length // 2)
    rendered = [prompt_ids(tokenizer, item.prompt, item.tools) for item in chosen]
    ids = [row for row in rendered if row is not None and len(row) + length <= model.config.context_length]
    answers = generate_many(
        model.eval(), ids, max_tokens=length, sampling=SamplingParams(seed=seed), stop_ids=tokenizer.stop_ids,
        max_batch=MAX_SAMPLED_ANSWERS,
    )  # fmt: skip
    return [
        EncodedResponse((*row, *answer), (*[0] * len(row), *[1] * len(answer)))
        for row, answer in zip(ids, answers, strict=True)
        if answer
    ]


def mean_length(answers: Sequence[EncodedResponse]) -> float | None:
    """Tokens of an answer; None without answers."""
    return sum(answer.length for answer in answers) / len(answers) if answers else None


def kl_divergence(
    log_probs: Float[Tensor, " N"], reference_log_probs: Float[Tensor, " N"], answers: Sequence[EncodedResponse]
) -> float | None:
    """KL(model || reference) in nats a token, from answers that the model sampled and their log-probabilities under both."""
    tokens = sum(answer.length for answer in answers)
    return (log_probs - reference_log_probs).sum().item() / tokens if tokens else None
