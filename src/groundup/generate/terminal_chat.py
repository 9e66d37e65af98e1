"""A conversation in the terminal; or with a pipe, where each line is what the user says next."""

import io
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import TextIO

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import generate
from groundup.generate.sampling import SamplingParams
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

HELP = "/reset begins anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
PROMPT = "> "


class ChatSession:
    """What was said, as much of it as fits.

    Args:
        max_tokens: longest answer. An eighth of the context stays free for one, or `max_tokens` if that is
            less; when the turns leave less than that, the oldest are forgotten first, the system message
            never.

    Raises UserError when the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        *,
        system: str | None = None,
        max_tokens: int = 256,
    ):
        if tokenizer.chat_template is None:
            raise UserError(
                "this model has no chat template: it continues texts, and holds no conversations",
                hint="groundup generate MODEL continues a text; a run's 06-chat holds conversations",
            )
        self._model, self._tokenizer = model, tokenizer
        self._sampling, self._max_tokens = sampling, max_tokens
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []
        self.num_dropped_turns = 0

    def reset(self) -> None:
        """Forget all but the system message."""
        self._turns = []
        self.num_dropped_turns = 0

    def send(self, text: str) -> Generator[str]:
        """The answer, in pieces as they come. What came counts as said, even when the caller stops reading.

        Raises UserError, and remembers nothing, when `text` alone is too long for the context.
        """
        kept = [*self._turns, {"role": "user", "content": text}]
        prompt, forgotten = self._build_prompt(kept)
        self._turns = kept[forgotten:]
        self.num_dropped_turns += forgotten
        stream = StreamDetokenizer(self._tokenizer, prompt)
        answer = ""
        try:
            for token in generate(
                self._model,
                prompt,
                max_tokens=self._max_tokens,
                sampling=self._sampling,
                stop_ids=self._tokenizer.stop_ids,
            ):
                if piece := stream.push(token):
                    answer += piece
                    yield piece
            if piece := stream.finish():
                answer += piece
                yield piece
        finally:
            self._turns.append({"role": "assistant", "content": answer})

    def _build_prompt(self, turns: list[dict[str, str]]) -> tuple[list[int], int]:
        """The prompt, and how many of the oldest turns it leaves out (always whole pairs)."""
        context_length = self._model.config.context_length
        room = context_length - max(min(self._max_tokens, context_length // 8), 1)
        prompt: list[int] = []
        for first in range(0, len(turns), 2):
            prompt = self._tokenizer.render_chat(self._system + turns[first:], add_generation_prompt=True)
            if len(prompt) <= room:
                return prompt, first
        raise UserError(
            f"that makes {len(prompt)} tokens, expected at most {room}",
            hint="say it in fewer words",
        )


def chat(
    model: Decoder,
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    input: TextIO | None = None,
    output: TextIO | None = None,
) -> None:
    """Converse until /quit or the end of the input.

    On a terminal it prompts, and Ctrl-C stops the answer. From a pipe it reads a turn a line and writes
    nothing but the answers, one after another.

    Args:
        input: where the user's turns come from; default: standard input.
        output: where the answers go; default: standard output.

    Raises UserError when the tokenizer has no chat template.
    """
    source, sink = input or sys.stdin, output or sys.stdout
    conversation = ChatSession(model, tokenizer, sampling, system=system, max_tokens=max_tokens)
    terminal = source is sys.stdin and source.isatty()
    if terminal:
        print(HELP, file=sink)
    for line in _terminal_lines() if terminal else _pipe_lines(source):
        text = line.strip()
        if text == "/quit":
            return
        elif text == "/reset":
            conversation.reset()
        elif text == "/help":
            print(HELP, file=sink)
        elif text:
            try:
                _print_answer(conversation, text, sink)
            except KeyboardInterrupt:
                if not terminal:
                    raise
                print(" [stopped]", file=sink)


def _print_answer(conversation: ChatSession, text: str, sink: TextIO) -> None:
    before = conversation.num_dropped_turns
    try:
        with closing(conversation.send(text)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True, file=sink)
        print(file=sink, flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
    if conversation.num_dropped_turns > before:
        print("[the conversation outgrew the context: its oldest turns are forgotten]", file=sys.stderr)


def _terminal_lines() -> Iterator[str]:
    """Lines of a terminal, with history and arrow keys. Ctrl-C empties the line, Ctrl-D ends."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input() uses it when it is there; some platforms have none)
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
        source.reconfigure(errors="replace")  # one bad byte in a file of questions is no reason to stop
    return iter(source)
