"""From the engine's events to the text of each answer, as it grows."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from groundup.generate import Request, StepOutput, StreamDetokenizer
from groundup.serve.engine_thread import OutputStream
from groundup.serve.prometheus import ServerMetrics
from groundup.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenLogprob:
    """A token and what the model thought of it.

    Attributes:
        offset: where its text begins in the answer.
        likeliest: texts and log-probabilities of the best tokens in its place, in nats.
    """

    text: str
    logprob: float
    offset: int
    top_logprobs: list[tuple[str, float]]


@dataclass(frozen=True)
class ChoiceDelta:
    """What one event adds to an answer."""

    index: int
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: str | None


class CompletionChoice:
    """The answer to one prompt.

    Args:
        index: its number among the choices of the response.
        stop: strings at which it ends.
    """

    def __init__(self, index: int, request: Request, tokenizer: Tokenizer, stop: Sequence[str]):
        self.index = index
        self.request = request
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.num_tokens = 0
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._stream = StreamDetokenizer(tokenizer, request.prompt_ids, stop)

    def add_output(self, event: StepOutput) -> ChoiceDelta:
        """Add what `event` brings."""
        piece, told = "", []
        if event.token is not None:
            self.num_tokens += 1
            piece = self._stream.push(event.token)
            if event.logprob is not None:
                likeliest = [(self._token_text(id), logprob) for id, logprob in event.top_logprobs]
                told.append(
                    TokenLogprob(self._token_text(event.token), event.logprob, len(self.text), likeliest)
                )
        if event.finish_reason and not self._stream.stopped:
            piece += self._stream.finish()
        self.finish_reason = "stop" if self._stream.stopped else event.finish_reason
        self.text += piece
        self.logprobs += told
        return ChoiceDelta(self.index, piece, told, self.finish_reason)

    def _token_text(self, id: int) -> str:
        return self._tokenizer.decode([id]) if id < self._tokenizer.vocab_size else ""


@dataclass
class CompletionChoices:
    """All the answers of one response."""

    stream: OutputStream
    choices: list[CompletionChoice]
    metrics: ServerMetrics
    started: float = field(default_factory=time.perf_counter)

    async def deltas(self) -> AsyncIterator[ChoiceDelta]:
        """What comes, of all answers as it comes, until all are finished. Raises ApiError when the model fails."""
        by_request = {answer.request: answer for answer in self.choices}
        first = True
        while by_request:
            event = await self.stream.next()
            if first:
                self.metrics.first_token_seconds.observe(time.perf_counter() - self.started)
                first = False
            answer = by_request[event.request]
            delta = answer.add_output(event)
            self.metrics.generated_tokens += event.token is not None
            if answer.finish_reason:
                self.stream.cancel(
                    answer.request
                )  # it may have ended at a stop string, which the engine cannot see
                del by_request[answer.request]
            yield delta

    def usage(self) -> dict[str, int]:
        prompt = sum(len(answer.request.prompt_ids) for answer in self.choices)
        generated = sum(answer.num_tokens for answer in self.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }
