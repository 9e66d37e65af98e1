"""Fine-tuning tasks by architecture: conversations for a decoder, pairs of texts for an encoder-decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from groundup.finetune.chat_batches import ChatBatches, encode_conversation
from groundup.finetune.encoded_conversations import EncodedConversation
from groundup.finetune.seq2seq import Seq2SeqBatches, encode_seq2seq, pair_length
from groundup.finetune.template_messages import prompt_ids
from groundup.generate import GREEDY, beam_search_text, decode_output, generate, generate_many
from groundup.model import Decoder
from groundup.plan.checks.stage_support import check_finetuning
from groundup.plan.defaults.finetune_defaults import ANSWER_TOKENS
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import NEXT_TOKEN, UNSHIFTED, Batch, Objective


@runtime_checkable
class FinetuneBatches(Protocol):
    """Batches that are a pure function of the step.

    Attributes:
        num_rows: rows of one epoch: of packed conversations, or examples.
        batch_rows: rows of one batch.
        sequence_length: tokens of a row.
    """

    num_rows: int
    batch_rows: int
    sequence_length: int

    def batch(self, step: int) -> Batch: ...
    def first_epoch(self) -> list[Batch]: ...


@dataclass(frozen=True)
class FinetuneTask:
    """What an architecture learns, and from which batches.

    Attributes:
        encode: (conversation, tokenizer, augment_user_turns) -> its tokens.
        length: tokens of a row that an encoded conversation needs.
        batches: (encoded, context length, rows of a batch, seed, tokenizer) -> their batches.
        answer: (model, tokenizer, prompt) -> the greedy answer, of an encoder-decoder by beam search.
    """

    encode: Callable[..., EncodedConversation]
    length: Callable[[EncodedConversation], int]
    batches: Callable[[Sequence[EncodedConversation], int, int, int, Tokenizer], FinetuneBatches]
    objective: Objective
    answer: Callable[[Any, Tokenizer, str], str]


def task_for_model(model: nn.Module) -> FinetuneTask:
    """Raises UserError for an encoder."""
    check_finetuning("generation", model.config.architecture)  # type: ignore[union-attr,arg-type]
    return CHAT if isinstance(model, Decoder) else SEQ2SEQ


def greedy_answer(model: Decoder, tokenizer: Tokenizer, prompt: str) -> str:
    """The greedy answer of `model` to one message. Raises UserError if the message does not fit into its context."""
    ids = tokenizer.render_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)
    tokens = generate(model, ids, max_tokens=ANSWER_TOKENS, sampling=GREEDY, stop_ids=tokenizer.stop_ids)
    return decode_output(tokenizer, tokens).strip()


def greedy_answers(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    """The greedy answers to several prompts, in one batch: blank where the template refuses one or it does not fit."""
    limit = model.config.context_length
    rendered = [prompt_ids(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    rendered = [None if ids is None or len(ids) >= limit else ids for ids in rendered]
    fitting = [ids for ids in rendered if ids is not None]
    tokens = generate_many(model, fitting, max_tokens=ANSWER_TOKENS, sampling=GREEDY, stop_ids=tokenizer.stop_ids)
    answers = iter([decode_output(tokenizer, ids) for ids in tokens])
    return ["" if ids is None else next(answers).strip() for ids in rendered]


CHAT = FinetuneTask(
    encode_conversation,
    lambda encoded: encoded.max_tokens,
    lambda encoded, length, num_rows, seed, tokenizer: ChatBatches(encoded, length, num_rows, seed, _pad_id(tokenizer)),
    NEXT_TOKEN,
    greedy_answer,
)
SEQ2SEQ = FinetuneTask(
    encode_seq2seq,
    pair_length,
    lambda encoded, length, num_rows, seed, tokenizer: Seq2SeqBatches(
        encoded, length, num_rows, seed, _pad_id(tokenizer), tokenizer.eos_id or 0
    ),
    UNSHIFTED,
    lambda model, tokenizer, prompt: beam_search_text(model, tokenizer, prompt, max_tokens=ANSWER_TOKENS).strip(),
)


def _pad_id(tokenizer: Tokenizer) -> int:
    return tokenizer.pad_id if tokenizer.pad_id is not None else 0
