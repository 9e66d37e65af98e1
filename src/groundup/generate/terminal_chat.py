"""Chat in a terminal, or over a pipe with one user turn per line."""

import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TextIO

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.sanitize import sanitize_for_stream
from groundup.generate.chat_session import ChatSession
from groundup.generate.sampling import SamplingParams
from groundup.tokenizer import Tokenizer

HELP = """\
/system TEXT    set the system message; without TEXT: remove it
/retry          another answer to the last message
/undo           remove the last message and its answer
/reset          remove all messages
/probabilities  show the probability of each token of the answers, or no longer
/trace          show where the last answer stands word for word in the training text
/save FILE      append the conversation to a JSON lines file, in the format of training data; --resume FILE continues it
/help           this list
/quit           exit, as Ctrl-D; Ctrl-C stops an answer
A line that ends with \\ continues on the next one, and lines between two lines of \"\"\" are one message.
// at the beginning is a message that begins with /."""
PROMPT, CONTINUATION = "> ", ". "
COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
"""Of a whole message; /usr/bin is none."""
FENCE = '"""'
SPACE, NO_BREAK = "\u2423", "\u00a0"
HISTORY_LINES = 1000
SHADES = ((0.2, "31"), (0.5, "33"), (0.8, "32"))
"""Colours of probabilities below a bound; above the last: none."""


def chat(
    model: nn.Module,
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    messages: Sequence[Mapping[str, str]] = (),
    trace: Callable[[str], Iterable[str]] | None = None,
    input: TextIO | None = None,
    output: TextIO | None = None,
) -> int:
    """Chat until /quit or the end of the input. Returns the number of messages and commands that were refused, over a pipe.

    On a terminal it shows a prompt, and Ctrl-C stops an answer. From a pipe it reads one turn per line and writes only
    the answers. Commands are those of HELP.

    Args:
        messages: an earlier conversation, which is continued (`read_conversation`).
        trace: lines that say where an answer stands in the training text, for /trace; None: not known of this model.
        input: the user's turns; default: standard input.
        output: the answers; default: standard output.

    Raises UserError when the tokenizer has no chat template.
    """
    source, sink = input or sys.stdin, output or sys.stdout
    session = ChatSession(model, tokenizer, sampling, system=system, max_tokens=max_tokens, messages=messages)
    terminal = source is sys.stdin and source.isatty()
    loop = _TerminalChat(session, sink, trace)
    if terminal:
        print("/help lists the commands, /quit or Ctrl-D exits, Ctrl-C stops an answer", file=sink)
        for message in messages:
            print(
                f"{PROMPT if message['role'] == 'user' else ''}{sanitize_for_stream(str(message['content']), sink)}",
                file=sink,
            )
    lines = _terminal_lines() if terminal else _pipe_lines(source)
    for message in _messages(lines):
        try:
            if not loop.take(message):
                break
        except KeyboardInterrupt:
            if not terminal:
                raise
            print(" [stopped]", file=sink)
    return 0 if terminal else loop.num_refused


def read_conversation(path: Path) -> list[dict[str, str]]:
    """The messages of the last line of a file that /save or the chat page wrote. Raises UserError for another file."""
    hint = "a file that /save wrote: JSON lines of messages"
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        messages = json.loads(lines[-1])["messages"]
        roles = [message["role"] for message in messages]
        is_text = all(isinstance(message["content"], str) for message in messages)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", hint=hint) from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path}: no conversation in its last line", hint=hint) from None
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not is_text or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(f"{path}: expected turns of user and assistant, one after the other, with text", hint=hint)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


class _TerminalChat:
    """A session, the commands on it, and where the answers go."""

    def __init__(self, session: ChatSession, sink: TextIO, trace: Callable[[str], Iterable[str]] | None = None):
        self._session, self._sink, self._trace = session, sink, trace
        self._shows_probabilities = False
        self._has_color = sink.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.num_refused = 0

    def take(self, message: str) -> bool:
        """Answer a message or carry out a command. Returns whether the chat goes on."""
        text: str | None = message.removeprefix("/") if message.startswith("//") else message
        if (command := COMMAND.fullmatch(message)) is not None:
            if command[1] == "quit":
                return False
            text = self._run_command(command[1], (command[2] or "").strip())
        if text:
            self._answer(text)
        return True

    def _run_command(self, name: str, argument: str) -> str | None:
        """Carry out a command. Returns a message to answer: that of /retry."""
        session = self._session
        if argument and name not in ("system", "save"):
            self._refuse(f"/{name}: takes nothing after it; // begins a message with /")
        elif name == "help":
            print(HELP, file=self._sink)
        elif name == "reset":
            session.reset()
        elif name == "system":
            session.set_system(argument or None)
        elif name in ("undo", "retry"):
            text = session.undo()
            if text is None:
                self._refuse(f"/{name}: there is no message")
            return text if name == "retry" else None
        elif name == "probabilities":
            self._shows_probabilities = not self._shows_probabilities
        elif name == "trace":
            self._show_trace()
        elif name == "save":
            self._save(argument)
        else:
            self._refuse(f"/{name}: unknown command; /help lists them, // begins a message with /")
        return None

    def _show_trace(self) -> None:
        answers = [message["content"] for message in self._session.messages if message["role"] == "assistant"]
        if self._trace is None:
            self._refuse("/trace: only a run folder holds the text that its model was trained on")
        elif not answers or not answers[-1].strip():
            self._refuse("/trace: there is no answer")
        else:
            try:
                for line in self._trace(answers[-1]):
                    print(sanitize_for_stream(line, self._sink), file=self._sink)
            except UserError as error:
                self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self.num_refused += 1
        print(reason, file=sys.stderr)

    def _save(self, path: str) -> None:
        if not path:
            self._refuse("/save: no file name")
            return
        if not any(message["role"] == "user" for message in self._session.messages):
            self._refuse("/save: there is no message")
            return
        try:
            with Path(path).expanduser().open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self._session.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            self._refuse(f"/save: {path}: {error.strerror}")
        else:
            print(f"saved to {path}", file=sys.stderr)

    def _answer(self, text: str) -> None:
        session, before, is_blank = self._session, self._session.num_dropped_turns, True
        try:
            with closing(session.send(text)) as chunks:
                for chunk in chunks:
                    is_blank = is_blank and not chunk.strip()
                    print(sanitize_for_stream(chunk, self._sink), end="", flush=True, file=self._sink)
            print(file=self._sink, flush=True)
        except UserError as error:
            self._refuse(str(error))
            return
        if is_blank:
            print(
                "[the model ended its turn without a word; this message is left out of the conversation]",
                file=sys.stderr,
            )
        if session.num_dropped_turns > before:
            print("[the context is full: the oldest turns were dropped]", file=sys.stderr)
        if self._shows_probabilities:
            print(self._probabilities(), file=self._sink, flush=True)

    def _probabilities(self) -> str:
        """Each token of the last answer with its probability, in lines of 78 columns; white space within is escaped."""
        cells = []
        for token, value in self._session.token_probabilities():
            spelled = json.dumps(token, ensure_ascii=False)[1:-1].replace(" ", SPACE)
            cells.append(f"{spelled}{NO_BREAK}{value:.0%}")
        wrapper = textwrap.TextWrapper(
            78, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        text = wrapper.fill("  ".join(cells))
        if self._has_color:
            text = re.sub(rf"\S+{NO_BREAK}(\d+)%", lambda cell: _shaded(cell[0], int(cell[1]) / 100), text)
        return text.replace(NO_BREAK, " ")


def _shaded(text: str, probability: float) -> str:
    color = next((color for bound, color in SHADES if probability < bound), None)
    return text if color is None else f"\x1b[{color}m{text}\x1b[0m"


def _messages(lines: Callable[[str], str | None]) -> Iterator[str]:
    """Messages of one or more lines, without white space around them; empty ones are left out.

    `lines` returns the next line, or None at the end; its argument is the prompt.
    """
    while (line := lines(PROMPT)) is not None:
        parts = [line]
        if line.strip() == FENCE:
            parts = []
            while (line := lines(CONTINUATION)) is not None and line.strip() != FENCE:
                parts.append(line)
        else:
            while parts[-1].endswith("\\") and (line := lines(CONTINUATION)) is not None:
                parts[-1] = parts[-1][:-1]
                parts.append(line)
        if message := "\n".join(parts).strip():
            yield message


def _terminal_lines() -> Callable[[str], str | None]:
    """Lines of a terminal, with arrow keys and a history that is kept. Ctrl-C clears the line, Ctrl-D ends the chat."""
    with suppress(ImportError):  # missing on some platforms
        _keep_history()

    def next_line(prompt: str) -> str | None:
        while True:
            try:
                return input(prompt)
            except KeyboardInterrupt:
                print()
            except EOFError:
                print()
                return None

    return next_line


def _keep_history() -> None:
    """Lines of earlier chats for the arrow keys, in a file that others cannot read."""
    import atexit

    try:
        import readline  # used by input()
    except ImportError:  # Windows
        return

    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    file = state / "groundup" / "chat_history"
    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):  # a home that cannot be written has no history
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        readline.read_history_file(file)
        atexit.register(_write_history, file)


def _write_history(file: Path) -> None:
    import readline

    with suppress(OSError):
        readline.write_history_file(file)
        file.chmod(0o600)


def _pipe_lines(source: TextIO) -> Callable[[str], str | None]:
    if isinstance(source, io.TextIOWrapper):
        source.reconfigure(errors="replace")  # invalid UTF-8 does not end the chat

    def next_line(prompt: str) -> str | None:
        line = source.readline()
        return line.rstrip("\r\n") if line else None

    return next_line
