"""The text of a conversation to train on, and the assistant's turns in it, for any chat template.

`{% generation %}` blocks say where the turns are, as in transformers. Without them, a turn is what the conversation up to it
has beyond its generation prompt. Templates of models that think often render a turn in another way once a user has answered:

    as rendered    each turn stands in the whole conversation as it stood when it was the last: most templates
    as last        else each turn is put into the text as it was when it was the last, as by the training templates of TRL
    last only      neither is possible: only the last turn is known
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from groundup.artifacts.errors import UserError
from groundup.tokenizer.chat_template import Message, Span, render

TurnForm = Literal["as rendered", "as last", "last only"]
GENERATION_TAG = re.compile(r"{%-?\s*generation\s*-?%}")
MAX_SPECIAL_TOKEN = 300
"""Letters of a special token, at most."""
PROBES = ("\u25c6 \u25c6", "\u25c7 \u25c7")
"""Answers in place of an answer, to see where it stands."""


@dataclass(frozen=True)
class TrainingText:
    """A conversation as text, and the character spans of the assistant's turns, end of turn included."""

    text: str
    spans: list[Span]
    form: TurnForm = "as rendered"


@dataclass(frozen=True)
class LastTurn:
    """A turn in the conversation that ends with it: `text[start:]`, after its generation prompt `header`."""

    text: str
    start: int
    header: str = ""


def training_text(
    template: str, messages: Sequence[Message], special: re.Pattern[str], last_turn_only: bool = False, **names: Any
) -> TrainingText:
    """The conversation as text, with the spans of all assistant turns without weight 0, or of the last one.

    special: matches the special tokens of the tokenizer; the end of a turn is one.
    Raises UserError when the template fails, or refuses the conversation.
    """
    text, spans = render(template, messages, **names)
    turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    is_learnt = [bool(messages[index].get("weight", 1)) for index in turns]
    if GENERATION_TAG.search(template) and (all(is_learnt) or len(spans) == len(turns)):
        found = TrainingText(text, spans)
    elif turns:
        finder = TurnFinder(template, messages, special, names, text)
        known = finder.as_rendered(turns[-1:] if last_turn_only else turns)
        if known is None and not last_turn_only:
            known = finder.as_last(turns)
        found = known or finder.last_only(turns[-1])
    else:
        found = TrainingText(text, [])
    if not all(is_learnt):
        known_turns = zip(found.spans, is_learnt[-len(found.spans) :], strict=True) if found.spans else ()
        found = replace(found, spans=[span for span, learnt in known_turns if learnt])
    return replace(found, spans=found.spans[-1:]) if last_turn_only else found


class TurnFinder:
    """The assistant's turns of one conversation, whose template has no `{% generation %}`.

    text: the conversation as rendered.
    """

    def __init__(
        self, template: str, messages: Sequence[Message], special: re.Pattern[str], names: Mapping[str, Any], text: str
    ):
        self.template, self.messages, self.special, self.names, self.text = template, messages, special, names, text
        self._last_turns: dict[int, LastTurn | None] = {}

    def as_rendered(self, turns: Sequence[int]) -> TrainingText | None:
        """The turns in the whole conversation; None if one stands there in another way than as the last one."""
        text, spans = self.text, []
        for index in turns:
            turn = self.last_turn(index)
            begin = self._begin_in_conversation(index, turn) if turn else None
            if turn is None or begin is None:
                return None
            same = self._common_length(turn.text[turn.start :], text[begin:])
            if self.special.sub("", turn.text[turn.start + same :]).strip():
                return None
            text, end = self._with_end_token(text, begin, begin + same, index)
            spans.append((begin, end))
        return TrainingText(text, spans)

    def as_last(self, turns: Sequence[int]) -> TrainingText | None:
        """Each turn as it was rendered when it was the last; None where its place cannot be known."""
        text, spans, content_end, previous = "", [], 0, -1
        for index in turns:
            turn = self.last_turn(index)
            own_end = self._content_end(turn.text, index, index) if turn else None
            if turn is None or own_end is None or own_end < turn.start:
                return None
            shift = 0
            if spans:  # this text takes over where the content of the previous turn ends
                past = self._content_end(turn.text, index, previous)
                if past is None or past > turn.start:
                    return None
                begin, end = spans[-1][0], content_end + self._common_length(text[content_end:], turn.text[past:])
                text, shift = text[:content_end], content_end - past
                text, end = self._with_end_token(text + turn.text[past:], begin, end, previous)
                spans[-1] = (begin, end)
            else:
                text = turn.text
            spans.append((turn.start + shift, len(text)))
            content_end, previous = own_end + shift, index
        text, end = self._with_end_token(text, spans[-1][0], len(text), turns[-1])
        return TrainingText(text, [*spans[:-1], (spans[-1][0], end)], "as last")

    def last_only(self, index: int) -> TrainingText:
        """The last turn, without what follows it. Raises UserError if the template cannot render it."""
        turn = self.last_turn(index)
        if turn is None:
            raise UserError(f"message {index}: the chat template cannot render the conversation up to it")
        text, end = self._with_end_token(turn.text, turn.start, len(turn.text), index)
        return TrainingText(text, [(turn.start, end)], "last only")

    def last_turn(self, index: int) -> LastTurn | None:
        """The turn at `index` in the conversation up to it; None if the template refuses that."""
        if index not in self._last_turns:
            self._last_turns[index] = self._last_turn(index)
        return self._last_turns[index]

    def _last_turn(self, index: int) -> LastTurn | None:
        text = self.text if index == len(self.messages) - 1 else self._render(self.messages[: index + 1])
        if text is None:
            return None
        prompt, history = self._prompt(self.messages[:index])
        if prompt != history and text.startswith(prompt):
            return LastTurn(text, len(prompt), prompt[self._common_length(history, prompt) :])
        if prompt == history:  # the template may end with a header even so
            tail = text[len(text) - _common_prefix(text[::-1], history[::-1]) :]
            if end_of_turn := self.special.search(tail):
                text = text[: len(text) - len(tail) + end_of_turn.end()]
        # The prompt is refused, is none, or has what an answer without thoughts has not: the answer begins before its content.
        content = self._content_begin(text, index, index)
        if content is None:
            return None
        if prompt and text.startswith(prompt):
            return LastTurn(text, content if text[len(prompt) : content].strip() else len(prompt))
        before, header = self._common_length(history, prompt), self._common_length(text, prompt)
        if header > before:  # whole lines and special tokens of the header
            ends = [token.end() for token in self.special.finditer(text, before, header)]
            return LastTurn(text, min(content, max(text.rfind("\n", before, header) + 1, *ends, before)))
        prompt, history = self._prompt([{"role": "user", "content": PROBES[0]}])
        usual = prompt[self._common_length(history, prompt) :]
        begin = text.rfind(usual, 0, content) if usual.strip() else -1
        return LastTurn(text, content if begin < 0 else begin + len(usual))

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The conversation with the generation prompt, and without; blank where the template refuses it."""
        prompt = self._render(messages, add_generation_prompt=True) if messages else None
        history = self._render(messages) if messages else None
        return ("", "") if prompt is None or history is None else (prompt, history)

    def _begin_in_conversation(self, index: int, turn: LastTurn) -> int | None:
        """Where the turn begins in the whole conversation."""
        if self.text.startswith(turn.text[: turn.start]):
            return turn.start
        last = len(self.messages) - 1
        there, here = self._content_begin(self.text, last, index), self._content_begin(turn.text, index, index)
        if there is None or here is None:
            return None
        begin = there - here + turn.start
        return begin if begin >= 0 and self.text[:begin].endswith(turn.header) else None

    def _content_begin(self, text: str, last: int, index: int) -> int | None:
        """Where the content of a message begins in `text`, the conversation up to message `last`."""
        other = self._with_another_content(last, index)
        return None if other is None else self._common_length(text, other)

    def _content_end(self, text: str, last: int, index: int) -> int | None:
        other = self._with_another_content(last, index)
        return None if other is None else len(text) - _common_prefix(text[::-1], other[::-1])

    def _with_another_content(self, last: int, index: int) -> str | None:
        return self._render(self._with_probe(self.messages[: last + 1], index))

    def _with_probe(self, messages: Sequence[Message], index: int) -> list[Message]:
        """The messages with an answer that begins and ends in another way than the one at `index`."""
        message = messages[index]
        probe = next((probe for probe in PROBES if probe[0] not in str(message.get("content"))), PROBES[0])
        content = [{"type": "text", "text": probe}] if isinstance(message.get("content"), list) else probe
        return [*messages[:index], {"role": message["role"], "content": content}, *messages[index + 1 :]]

    def _with_end_token(self, text: str, begin: int, end: int, index: int) -> tuple[str, int]:
        """The end of the turn `text[begin:end]` with the special token after it, if it has none: the header of what follows.

        Where nothing follows, the text gets the first token of what would.
        """
        stripped = text[begin:end].rstrip()
        tokens = list(self.special.finditer(stripped, max(0, len(stripped) - MAX_SPECIAL_TOKEN)))
        if tokens and tokens[-1].end() == len(stripped):
            return text, end
        if text[end:].strip():
            next_role = self.messages[index + 1]["role"] if index + 1 < len(self.messages) else None
            token = None if next_role == "assistant" else self._leading_token(text[end:])
            return text, end + len(token or "")
        token = self._leading_token(self._after_last_turn(index))
        return (text, end) if token is None else (text[:end] + token, end + len(token))

    def _leading_token(self, text: str) -> str | None:
        """White space and the special token with which a text begins."""
        match = self.special.match(text, len(text) - len(text.lstrip()))
        return text[: match.end()] if match else None

    def _after_last_turn(self, index: int) -> str:
        """What is rendered after the turn once another message follows it."""
        turn, role = self.last_turn(index), "tool" if self.messages[index].get("tool_calls") else "user"
        longer = [*self.messages[: index + 1], {"role": role, "content": PROBES[0]}]
        text, other = self._render(longer), self._render(self._with_probe(longer, index))
        own_end = self._content_end(turn.text, index, index) if turn else None
        if turn is None or own_end is None or text is None or other is None:
            return ""
        following = text[len(text) - _common_prefix(text[::-1], other[::-1]) :]
        end_of_turn = turn.text[own_end:]
        return following[len(end_of_turn) :] if following.startswith(end_of_turn) else ""

    def _common_length(self, first: str, second: str) -> int:
        """The length of the common beginning of two texts, in whole special tokens."""
        length = _common_prefix(first, second)
        near = max(0, length - MAX_SPECIAL_TOKEN), length + MAX_SPECIAL_TOKEN
        tokens = (token for text in (first, second) for token in self.special.finditer(text, *near))
        return min([length, *(token.start() for token in tokens if token.start() < length < token.end())])

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str | None:
        try:
            return render(self.template, messages, add_generation_prompt=add_generation_prompt, **self.names)[0]
        except UserError:
            return None


def _common_prefix(first: str, second: str) -> int:
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
