"""`groundup chat`: a conversation in the terminal."""

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli.model_check import open_for_writing
from groundup.cli.options import (
    AdapterOption,
    DeterministicOption,
    DeviceOption,
    DtypeOption,
    KvBitsOption,
    MaxTokensOption,
    ModelArgument,
    SeedOption,
    TemperatureOption,
    TopPOption,
    VerifyOption,
)
from groundup.stages import STAGE_FOLDERS


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Continue the last conversation that /save wrote to this file.")
    ] = None,
    max_tokens: MaxTokensOption = 256,
    temperature: TemperatureOption = 0.5,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    kv_bits: KvBitsOption = None,
    deterministic: DeterministicOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Chat with a model in the terminal, or answer one message a line from a pipe.

    From a pipe, the exit code is 1 if a message or a command was refused.

    Example: groundup chat runs/quickstart

    Example: echo "Hello" | groundup chat runs/quickstart --system "Answer in one word."
    """
    from groundup.generate import SamplingParams
    from groundup.generate.terminal_chat import chat as converse
    from groundup.generate.terminal_chat import read_conversation

    messages = [] if resume is None else read_conversation(resume)
    network, tokenizer = open_for_writing(
        model, device, dtype, verify, adapter, kv_bits=kv_bits, deterministic=deterministic
    )
    sampling = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
    is_run = (model / STAGE_FOLDERS["tokens"]).is_dir()
    if converse(
        network,
        tokenizer,
        sampling,
        system=system,
        max_tokens=max_tokens,
        messages=messages,
        trace=partial(_trace_lines, model) if is_run else None,
    ):
        sys.exit(1)


def _trace_lines(run: Path, text: str) -> Iterable[str]:
    """Where a text stands in the training text of a run."""
    from groundup.cli.trace_command import describe_trace
    from groundup.evaluate.trace import open_tracer

    return describe_trace(open_tracer(run, progress=PROGRESS_KINDS["auto"]()).trace(text))
