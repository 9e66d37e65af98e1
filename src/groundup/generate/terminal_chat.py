"""Chat in a terminal, or over a pipe with one user turn per line."""

import io
import json
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import require_generative, stream_tokens
from groundup.generate.sampling import SamplingParams
from groundup.model import EncoderDecoder
from groundup.tokenizer import Tokenizer

HELP = """\
/system TEXT   set the system message; without TEXT: remove it
/retry         another answer to the last message
/undo          remove the last message and its answer
/reset         remove all messages
/save FILE     append the conversation to a JSON lines file, in the format of training data
/help          this list
/quit          exit, as Ctrl-D; Ctrl-C stops an answer
A line that ends with \\ continues on the next one; // at the beginning is a message that begins with /."""
PROMPT, CONTINUATION = "> ", ". "
COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
"""Of a whole message; /usr/bin is none."""


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

    @property
    def messages(self) -> list[dict[str, str]]:
        """The system message and the turns that are not dropped."""
        return [*self._system, *self._turns]

    def set_system(self, text: str | None) -> None:
        """Replace the system message; None: remove it."""
        self._system = [] if text is None else [{"role": "system", "content": text}]

    def reset(self) -> None:
        """Drop all turns; the system message stays."""
        self._turns = []
        self.num_dropped_turns = 0

    def undo(self) -> str | None:
        """Remove the last user turn and its answer. Returns the user's text, or None when there is none."""
        user = [index for index, turn in enumerate(self._turns) if turn["role"] == "user"]
        if not user:
            return None
        text = self._turns[user[-1]]["content"]
        self._turns = self._turns[: user[-1]]
        return text

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
    the answers. Commands are those of HELP.

    Args:
        input: the user's turns; default: standard input.
        output: the answers; default: standard output.

    Raises UserError when the tokenizer has no chat template.
    """
    source, sink = input or sys.stdin, output or sys.stdout
    session = ChatSession(model, tokenizer, sampling, system=system, max_tokens=max_tokens)
    terminal = source is sys.stdin and source.isatty()
    if terminal:
        print("/help lists the commands, /quit or Ctrl-D exits, Ctrl-C stops an answer", file=sink)
    for message in _messages(_terminal_lines if terminal else _pipe_lines(source)):
        text: str | None = message.removeprefix("/") if message.startswith("//") else message
        if (command := COMMAND.fullmatch(message)) is not None:
            if command[1] == "quit":
                return
            text = _run_command(session, command[1], (command[2] or "").strip(), sink)
        if text:
            try:
                _print_answer(session, text, sink)
            except KeyboardInterrupt:
                if not terminal:
                    raise
                print(" [stopped]", file=sink)


def _run_command(session: ChatSession, name: str, argument: str, sink: TextIO) -> str | None:
    """Carry out a command. Returns a message to answer: that of /retry."""
    if name == "help":
        print(HELP, file=sink)
    elif name == "reset":
        session.reset()
    elif name == "system":
        session.set_system(argument or None)
    elif name in ("undo", "retry"):
        text = session.undo()
        if text is None:
            print(f"/{name}: there is no message", file=sys.stderr)
        return text if name == "retry" else None
    elif name == "save":
        _save(session, argument)
    else:
        print(f"/{name}: unknown command; /help lists them, // begins a message with /", file=sys.stderr)
    return None


def _save(session: ChatSession, path: str) -> None:
    if not path:
        print("/save: no file name", file=sys.stderr)
        return
    try:
        with Path(path).expanduser().open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": session.messages}, ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"/save: {path}: {error.strerror}", file=sys.stderr)
    else:
        print(f"saved to {path}", file=sys.stderr)


def _messages(lines: Callable[[str], str | None]) -> Iterator[str]:
    """Messages of one or more lines, without white space around them; empty ones are left out.

    `lines` returns the next line, or None at the end; its argument is the prompt.
    """
    while (line := lines(PROMPT)) is not None:
        parts = [line]
        while parts[-1].endswith("\\") and (line := lines(CONTINUATION)) is not None:
            parts[-1] = parts[-1][:-1]
            parts.append(line)
        if message := "\n".join(parts).strip():
            yield message


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


def _terminal_lines(prompt: str) -> str | None:
    """A line of a terminal, with history and arrow keys. Ctrl-C clears the line, Ctrl-D ends the chat."""
    with suppress(ImportError):
        import readline  # noqa: F401  (used by input(); missing on some platforms)
    while True:
        try:
            return input(prompt)
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return None


def _pipe_lines(source: TextIO) -> Callable[[str], str | None]:
    if isinstance(source, io.TextIOWrapper):
        source.reconfigure(errors="replace")  # invalid UTF-8 does not end the chat

    def next_line(prompt: str) -> str | None:
        line = source.readline()
        return line.rstrip("\r\n") if line else None

    return next_line
