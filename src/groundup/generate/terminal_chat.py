"""Chat in a terminal, or over a pipe with one user turn per line."""

import io
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from datetime import datetime
from typing import TextIO

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import require_generative, stream_tokens
from groundup.generate.sampling import SamplingParams
from groundup.model import EncoderDecoder
from groundup.tokenizer import Tokenizer

HELP = "/reset clears the conversation, /quit or Ctrl-D exits, Ctrl-C stops an answer"
PROMPT = "> "


class ChatSession:
    """A conversation with a model. The oldest turns are dropped when the context is full, the system message never.

    Args:
        max_tokens: longest answer. min(max_tokens, context_length / 8) tokens of the context are reserved for it.

    Raises UserError when the tokenizer has no chat template.

    >>> session = ChatSession(model, tokenizer, system="Be brief.")
    >>> print("".join(session.send("Hello")))
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
        *,
        system: str | None = None,
        max_tokens: int = 256,
    ):
        if isinstance(model := require_generative(model), EncoderDecoder):
            raise UserError(
                "the model is an encoder-decoder, which turns one text into another and does not chat",
                hint="groundup generate MODEL --prompt TEXT",
            )
        if tokenizer.chat_template is None:
            raise UserError(
                "the model has no chat template: it is a base model",
                hint="continue a text with: groundup generate MODEL; or chat with the 06-chat model of a run",
            )
        self._model, self._tokenizer = model, tokenizer
        self._sampling, self._max_tokens = sampling, max_tokens
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []
        self.num_dropped_turns = 0

    def reset(self) -> None:
        """Drop all turns; the system message stays."""
        self._turns = []
        self.num_dropped_turns = 0

    def send(self, text: str) -> Generator[str]:
        """Yield the answer to a user turn in chunks. A partial answer is recorded when the caller stops reading.

        Raises UserError, and records nothing, when `text` alone is too long for the context.
        """
        turns = [*self._turns, {"role": "user", "content": text}]
        prompt, num_dropped = self._build_prompt(turns)
        self._turns = turns[num_dropped:]
        self.num_dropped_turns += num_dropped
        detokenizer = StreamDetokenizer(self._tokenizer, prompt)
        answer = ""
        try:
            for token in stream_tokens(
                self._model,
                prompt,
                max_tokens=self._max_tokens,
                sampling=self._sampling,
                stop_ids=self._tokenizer.stop_ids,
            ):
                if chunk := detokenizer.push(token):
                    answer += chunk
                    yield chunk
            if chunk := detokenizer.finish():
                answer += chunk
                yield chunk
        finally:
            self._turns.append({"role": "assistant", "content": answer})

    def _build_prompt(self, turns: list[dict[str, str]]) -> tuple[list[int], int]:
        """The prompt, and the number of oldest turns dropped from it, in pairs."""
        context_length = self._model.config.cached_context_length
        max_prompt = context_length - max(min(self._max_tokens, context_length // 8), 1)
        prompt: list[int] = []
        for first in range(0, len(turns), 2):
            prompt = self._tokenizer.render_chat(
                self._system + turns[first:], add_generation_prompt=True, now=datetime.now()
            )
            if len(prompt) <= max_prompt:
                return prompt, first
        raise UserError(
            f"the conversation has {len(prompt)} tokens, expected at most {max_prompt}", hint="shorten the message"
        )


def chat(
    model: nn.Module,
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    input: TextIO | None = None,
    output: TextIO | None = None,
) -> None:
    """Chat until /quit or the end of the input.

    On a terminal it shows a prompt, and Ctrl-C stops an answer. From a pipe it reads one turn per line and writes only
    the answers.

    Args:
        input: the user's turns; default: standard input.
        output: the answers; default: standard output.

    Raises UserError when the tokenizer has no chat template.
    """
    source, sink = input or sys.stdin, output or sys.stdout
    session = ChatSession(model, tokenizer, sampling, system=system, max_tokens=max_tokens)
    terminal = source is sys.stdin and source.isatty()
    if terminal:
        print(HELP, file=sink)
    for line in _terminal_lines() if terminal else _pipe_lines(source):
        text = line.strip()
        if text == "/quit":
            return
        elif text == "/reset":
            session.reset()
        elif text == "/help":
            print(HELP, file=sink)
        elif text:
            try:
                _print_answer(session, text, sink)
            except KeyboardInterrupt:
                if not terminal:
                    raise
                print(" [stopped]", file=sink)


def _print_answer(session: ChatSession, text: str, sink: TextIO) -> None:
    before = session.num_dropped_turns
    try:
        with closing(session.send(text)) as chunks:
            for chunk in chunks:
                print(chunk, end="", flush=True, file=sink)
        print(file=sink, flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
    if session.num_dropped_turns > before:
        print("[the context is full: the oldest turns were dropped]", file=sys.stderr)


def _terminal_lines() -> Iterator[str]:
    """Lines of a terminal, with history and arrow keys. Ctrl-C clears the line, Ctrl-D ends the chat."""
    with suppress(ImportError):
        import readline  # noqa: F401  (used by input(); missing on some platforms)
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return


def _pipe_lines(source: TextIO) -> Iterator[str]:
    if isinstance(source, io.TextIOWrapper):
        source.reconfigure(errors="replace")  # invalid UTF-8 does not end the chat
    return iter(source)
