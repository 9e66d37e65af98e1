"""Text for calibration and for the comparison with the float model, of a run: its corpus, its conversations, or samples.

A model that exists may come without text. Then it writes its own: calibration on text that a model generates is about as
good as on text like its training data (Williams et al. 2025, Self-calibration for Language Model Quantization and Pruning).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.generate import SamplingParams, generate_many
from groundup.generate.generation import require_generative
from groundup.plan.stage_time import SAMPLED_AT_ONCE, SAMPLED_TOKENS
from groundup.quantize.calibration_windows import calibration_length, concatenated_windows, evenly_spaced_windows
from groundup.recipe.output_config import QuantizeConfig
from groundup.tokenizer import Tokenizer, TokenShard

CHAT_DIVISOR = 4
"""At most 1 / CHAT_DIVISOR of the calibration tokens come from conversations; the rest is pretraining text."""

CONVERSATIONS_FILES = ("train.jsonl", "validation.jsonl")
"""In 06-chat: its conversations, one {"messages": [...]} a line."""

SAMPLE_TOKENS = 256
COMPARED_EVERY = 4
"""Of rows that are for both: every fourth is for the comparison."""


@dataclass(frozen=True)
class CalibrationText:
    """Windows of tokens, (N T).

    Attributes:
        text, chat: for calibration.
        compared: for the comparison with the float model.
        bytes_per_token: of the compared text.
        origin: "corpus", "conversations" or "samples".
    """

    text: Tensor
    chat: Tensor
    compared: Tensor
    bytes_per_token: float
    origin: str


def calibration_text(
    model: nn.Module, tokenizer: Tokenizer, inputs: dict[str, Path], section: QuantizeConfig, seed: int
) -> CalibrationText:
    """The corpus with a part of conversations; else the conversations; else samples of the model.

    Raises UserError for too little text.
    """
    if "tokens" in inputs:
        return _from_corpus(model, tokenizer, inputs, section)
    rows = list(_conversations(tokenizer, inputs))
    origin = "conversations" if rows else "samples"
    rows = rows or _samples(model, tokenizer, seed)
    parts = [[row for index, row in enumerate(rows) if (index % COMPARED_EVERY == 0) == part] for part in (False, True)]
    length = calibration_length(model, min(sum(len(row) for row in part) for part in parts))
    if length < 2:
        raise UserError(
            f"{len(rows)} conversations are too few to calibrate with", hint="add [data], or set method=rtn"
        )
    text, compared = (
        concatenated_windows(part, length, max(length, tokens))
        for part, tokens in zip(parts, (section.calibration_tokens, section.eval_tokens), strict=True)
    )
    compared_bytes = len(tokenizer.decode([id for row in parts[True] for id in row]).encode())
    rate = compared_bytes / sum(len(row) for row in parts[True])
    return CalibrationText(text, text[:0], compared, rate, origin)


def _from_corpus(
    model: nn.Module, tokenizer: Tokenizer, inputs: dict[str, Path], section: QuantizeConfig
) -> CalibrationText:
    shard, held_out = (TokenShard(inputs["tokens"] / split) for split in ("train", "validation"))
    length = calibration_length(model, shard.num_tokens)
    chat = torch.zeros(0, length, dtype=torch.int64)
    if "chat" in inputs and (inputs["chat"] / CONVERSATIONS_FILES[0]).is_file():
        rows = _conversations(tokenizer, inputs, CONVERSATIONS_FILES[:1])
        chat = concatenated_windows(rows, length, section.calibration_tokens // CHAT_DIVISOR)
    text = evenly_spaced_windows(shard.tokens, length, max(length, section.calibration_tokens - chat.numel()))
    compared_length = calibration_length(model, held_out.num_tokens)
    compared = evenly_spaced_windows(held_out.tokens, compared_length, section.eval_tokens)
    return CalibrationText(text, chat, compared, held_out.bytes / held_out.num_tokens, "corpus")


def _conversations(
    tokenizer: Tokenizer, inputs: dict[str, Path], names: tuple[str, ...] = CONVERSATIONS_FILES
) -> Iterator[list[int]]:
    for name in names if "chat" in inputs else ():
        for record in read_jsonl(inputs["chat"] / name):
            yield tokenizer.render_chat(record["messages"])


def _samples(model: nn.Module, tokenizer: Tokenizer, seed: int) -> list[list[int]]:
    """Texts that the model writes after its first token, sampled at temperature 1."""
    start = next((id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None), 0)
    decoder = require_generative(model)
    length = min(SAMPLE_TOKENS, decoder.config.context_length - 1)
    prompts = [[start]] * -(-SAMPLED_TOKENS // length)
    sampling = SamplingParams(temperature=1.0, seed=seed)
    return generate_many(decoder, prompts, max_tokens=length, sampling=sampling, max_batch=SAMPLED_AT_ONCE)
