"""From the engine's events to the text of each answer, as it grows."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from groundup.generate import Event, Request, TextStream
from groundup.serve.metrics import Metrics
from groundup.serve.worker import Stream
from groundup.tokenizer import Tokenizer


@dataclass(frozen=True)
class Told:
    """A token and what the model thought of it.

    Attributes:
        offset: where its text begins in the answer.
        likeliest: texts and log-probabilities of the best tokens in its place, in nats.
    """

    text: str
    logprob: float
    offset: int
    likeliest: list[tuple[str, float]]


@dataclass(frozen=True)
class Delta:
    """What one event adds to an answer."""

    index: int
    text: str
    told: list[Told]
    finish: str | None


class Answer:
    """The answer to one prompt.

    Args:
        index: its number among the choices of the response.
        stop: strings at which it ends.
    """

    def __init__(self, index: int, request: Request, tokenizer: Tokenizer, stop: Sequence[str]):
        self.index = index
        self.request = request
        self.text = ""
        self.told: list[Told] = []
        self.num_tokens = 0
        self.finish: str | None = None
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer, request.prompt_ids, stop)

    def take(self, event: Event) -> Delta:
        """Add what `event` brings."""
        piece, told = "", []
        if event.token is not None:
            self.num_tokens += 1
            piece = self._stream.push(event.token)
            if event.logprob is not None:
                likeliest = [(self._text_of(id), logprob) for id, logprob in event.likeliest]
                told.append(Told(self._text_of(event.token), event.logprob, len(self.text), likeliest))
        if event.finish and not self._stream.stopped:
            piece += self._stream.finish()
        self.finish = "stop" if self._stream.stopped else event.finish
        self.text += piece
        self.told += told
        return Delta(self.index, piece, told, self.finish)

    def _text_of(self, id: int) -> str:
        return self._tokenizer.decode([id]) if id < self._tokenizer.vocab_size else ""


@dataclass
class Answers:
    """All the answers of one response."""

    stream: Stream
    answers: list[Answer]
    metrics: Metrics
    began: float = field(default_factory=time.perf_counter)

    async def deltas(self) -> AsyncIterator[Delta]:
        """What comes, of all answers as it comes, until all are finished. Raises ApiError when the model fails."""
        by_request = {answer.request: answer for answer in self.answers}
        first = True
        while by_request:
            event = await self.stream.next()
            if first:
                self.metrics.first_token_seconds.observe(time.perf_counter() - self.began)
                first = False
            answer = by_request[event.request]
            delta = answer.take(event)
            self.metrics.generated_tokens += event.token is not None
            if answer.finish:
                self.stream.cancel(
                    answer.request
                )  # it may have ended at a stop string, which the engine cannot see
                del by_request[answer.request]
            yield delta

    def usage(self) -> dict[str, int]:
        prompt = sum(len(answer.request.prompt_ids) for answer in self.answers)
        generated = sum(answer.num_tokens for answer in self.answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }
