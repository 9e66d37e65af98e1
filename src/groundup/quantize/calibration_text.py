"""Text for calibration, and other text to compare with the float model on: files, a run's corpus, conversations, or samples.

A model that exists may come without text. Then it writes its own: calibration on text that a model generates is about as
good as on text like its training data (Williams et al. 2025, Self-calibration for Language Model Quantization and Pruning).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.generate import SamplingParams, decode_output, generate_many
from groundup.model import Decoder
from groundup.plan.time.stage_time import SAMPLED_AT_ONCE, SAMPLED_TOKENS
from groundup.quantize.block_methods import WITHOUT_TEXT
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

COMPARED_LENGTH = 512
"""Tokens of a window for the comparison, at most: many windows give an interval."""

RUN_LENGTH = 4
MIN_DISTINCT_RUNS, FEW_DISTINCT_RUNS = 128, 4_096
"""Different runs of four tokens in calibration text: refused below the first, for files; a warning below the second."""


@dataclass(frozen=True)
class CalibrationText:
    """Windows of tokens, (N T).

    Attributes:
        text, chat: for calibration.
        compared: for the comparison with the float model; none of it is in the others.
        bytes_per_token: of the compared text.
        origin: "files", "corpus", "conversations" or "samples".
    """

    text: Tensor
    chat: Tensor
    compared: Tensor
    bytes_per_token: float
    origin: str

    @property
    def windows(self) -> Tensor:
        """All calibration windows."""
        return torch.cat([self.text, self.chat])

    def warning(self) -> str | None:
        """A line about text that is too little or too uniform to calibrate well."""
        found = distinct_runs(self.windows)
        if found >= FEW_DISTINCT_RUNS:
            return None
        return (
            f"calibration on {self.windows.numel():,} tokens with {found:,} different runs of {RUN_LENGTH} tokens: "
            f"below {FEW_DISTINCT_RUNS:,}, more text gives a better model"
        )


def calibration_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    inputs: dict[str, Path],
    section: QuantizeConfig,
    seed: int,
    files: Sequence[Path] = (),
) -> CalibrationText:
    """`files`; else the corpus with a part of conversations; else the conversations; else samples of the model.

    Args:
        inputs: stage folders of a run, of which `tokens` and `chat` are read.
        files: texts, .jsonl files with `text` or `messages`, and folders of such files.

    Raises UserError for too little text.
    """
    if files:
        found = _from_rows(model, tokenizer, list(_file_rows(tokenizer, files)), section, "files", seed)
        _check_enough(found, section.method)
        return found
    if "tokens" in inputs:
        return _from_corpus(model, tokenizer, inputs, section, seed)
    if rows := list(_conversations(tokenizer, inputs)):
        return _from_rows(model, tokenizer, rows, section, "conversations", seed)
    return _from_rows(model, tokenizer, _samples(model, tokenizer, seed), section, "samples", seed)


def existing_files(paths: Sequence[Path | str]) -> list[Path]:
    """The paths. Raises UserError for one where nothing is."""
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file", hint="expected UTF-8 text, or JSON lines with text or messages")
    return [Path(path) for path in paths]


def distinct_runs(windows: Tensor) -> int:
    """Different runs of RUN_LENGTH tokens in windows (N T): small for little text and for text that repeats itself."""
    return torch.unique(windows.unfold(1, min(RUN_LENGTH, windows.shape[1]), 1).flatten(0, 1), dim=0).shape[0]


def _check_enough(found: CalibrationText, method: str) -> None:
    if method not in WITHOUT_TEXT and (runs := distinct_runs(found.windows)) < MIN_DISTINCT_RUNS:
        raise UserError(
            f"calibration text of {found.windows.numel():,} tokens with {runs} different runs of {RUN_LENGTH} tokens, "
            f"expected at least {MIN_DISTINCT_RUNS}",
            hint="give some pages of text like the model's use; without text the model writes its own",
        )


def _from_rows(
    model: nn.Module, tokenizer: Tokenizer, rows: list[list[int]], section: QuantizeConfig, origin: str, seed: int
) -> CalibrationText:
    """Every fourth row is for the comparison; longer rows are cut into windows first, which are drawn by the seed."""
    length = calibration_length(model, sum(map(len, rows)) // (2 * COMPARED_EVERY))
    rows = [row[begin : begin + length] for row in rows for begin in range(0, len(row), length)]
    parts = [[row for index, row in enumerate(rows) if (index % COMPARED_EVERY == 0) == part] for part in (False, True)]
    for part in parts:
        random.Random(seed).shuffle(part)
    length = calibration_length(model, min(length, *(sum(len(row) for row in part) for part in parts)))
    if length < 2:
        raise UserError(
            f"{sum(map(len, rows))} tokens of calibration text ({origin}), expected some pages",
            hint="give more text, or use the method rtn",
        )
    text = concatenated_windows(parts[False], length, max(length, section.calibration_tokens))
    compared_length = min(length, COMPARED_LENGTH)
    compared = concatenated_windows(parts[True], compared_length, max(compared_length, section.eval_tokens))
    compared_bytes = len(decode_output(tokenizer, [id for row in parts[True] for id in row]).encode())
    rate = compared_bytes / sum(len(row) for row in parts[True])
    return CalibrationText(text, text[:0], compared, rate, origin)


def _from_corpus(
    model: nn.Module, tokenizer: Tokenizer, inputs: dict[str, Path], section: QuantizeConfig, seed: int
) -> CalibrationText:
    shard, held_out = (TokenShard(inputs["tokens"] / split) for split in ("train", "validation"))
    if held_out.num_tokens < 2:
        raise UserError(
            f"{held_out.base}: no document was held out to compare with the float model",
            hint="raise data.validation_fraction",
        )
    length = calibration_length(model, shard.num_tokens)
    chat = torch.zeros(0, length, dtype=torch.int64)
    if "chat" in inputs and (inputs["chat"] / CONVERSATIONS_FILES[0]).is_file():
        rows = _conversations(tokenizer, inputs, CONVERSATIONS_FILES[:1])
        chat = concatenated_windows(rows, length, section.calibration_tokens // CHAT_DIVISOR)
    tokens = max(length, section.calibration_tokens - chat.numel())
    text = evenly_spaced_windows(shard.tokens, length, tokens, seed)
    compared_length = min(calibration_length(model, held_out.num_tokens), COMPARED_LENGTH)
    compared = evenly_spaced_windows(held_out.tokens, compared_length, section.eval_tokens)
    return CalibrationText(text, chat, compared, held_out.bytes / held_out.num_tokens, "corpus")


def _conversations(
    tokenizer: Tokenizer, inputs: dict[str, Path], names: tuple[str, ...] = CONVERSATIONS_FILES
) -> Iterator[list[int]]:
    for name in names if "chat" in inputs else ():
        for number, record in enumerate(read_jsonl(inputs["chat"] / name), 1):
            yield _record_row(tokenizer, record, f"{inputs['chat'] / name}, line {number}")


def _record_row(tokenizer: Tokenizer, record: dict[str, Any], place: str) -> list[int]:
    """The tokens of a conversation, or of the texts of an example."""
    if isinstance(record.get("messages"), list):
        return tokenizer.render_chat(record["messages"])
    texts = [value for key in ("query", "text") if isinstance(value := record.get(key), str)]
    if not texts:
        raise UserError(f"{place}: neither text nor messages", hint='expected {"text": "..."} or {"messages": [...]}')
    return tokenizer.encode("\n".join(texts))


def _file_rows(tokenizer: Tokenizer, files: Sequence[Path]) -> Iterator[list[int]]:
    for path in files:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
            if not inside:
                raise UserError(f"{path}: a folder without files, expected calibration text")
            yield from _file_rows(tokenizer, inside)
            continue
        if path.suffix == ".jsonl":
            for number, record in enumerate(read_jsonl(path), 1):
                yield _record_row(tokenizer, record, f"{path}, line {number}")
            continue
        try:
            yield tokenizer.encode(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not a UTF-8 text file ({error})", hint="convert it with iconv") from None


def _samples(model: nn.Module, tokenizer: Tokenizer, seed: int) -> list[list[int]]:
    """Texts that the model writes after its first token, sampled at temperature 1. Raises UserError for other architectures."""
    if not isinstance(model, Decoder):
        raise UserError(
            "no text to calibrate with or to compare on, and only a decoder can write its own",
            hint="groundup quantize: --calibration FILE; in a recipe: add [data]",
        )
    start = next((id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None), 0)
    length = min(SAMPLE_TOKENS, model.config.context_length - 1)
    prompts = [[start]] * -(-SAMPLED_TOKENS // length)
    sampling = SamplingParams(temperature=1.0, seed=seed)
    rows = generate_many(model, prompts, max_tokens=length, sampling=sampling, max_batch=SAMPLED_AT_ONCE)
    return [[id for id in row if id < tokenizer.vocab_size] for row in rows]  # an embedding may have more rows
