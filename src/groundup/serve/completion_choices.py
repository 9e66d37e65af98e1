"""Choices of a response: engine outputs accumulated into text, log-probabilities and finish reasons."""

import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from groundup.generate import Request, StepOutput, StreamDetokenizer
from groundup.generate.prompt_logprobs import TokenScore
from groundup.generate.sampling import NoTokenFitsError
from groundup.serve.api_error import ApiError
from groundup.serve.engine_thread import OutputStream
from groundup.serve.prometheus import ServerMetrics
from groundup.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its log-probability in nats.

    Attributes:
        content: its bytes, perhaps a part of a character.
        logprob: None of the first token of a prompt.
        offset: position of its text in the choice's text.
        top_logprobs: bytes and log-probabilities of the most likely tokens at its position.
    """

    content: bytes
    logprob: float | None
    offset: int
    top_logprobs: list[tuple[bytes, float]]


@dataclass(frozen=True)
class EchoedPrompt:
    """A prompt that begins the text of its choices (`echo`).

    Attributes:
        logprobs: of each token; none, if they are not wanted.
        alone: nothing is generated after it.
    """

    text: str
    logprobs: list[TokenLogprob]
    alone: bool


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt whose log-probabilities are part of the response (`prompt_logprobs`).

    Attributes:
        scores: of each token but the first.
        top: so many of the most likely tokens are wanted.
    """

    tokenizer: Tokenizer
    ids: Sequence[int]
    scores: Sequence[TokenScore]
    top: int

    def entries(self) -> list[dict[int, tuple[float, int, bytes]] | None]:
        """For each token its log-probability, rank and bytes by id, and those of the most likely ones; None for the first."""
        found: list[dict[int, tuple[float, int, bytes]] | None] = [None]
        for id, score in zip(self.ids[1:], self.scores, strict=True):
            ranked = [(each, logprob, rank) for rank, (each, logprob) in enumerate(score.top[: self.top], 1)]
            wanted = [(id, score.logprob, score.rank), *(entry for entry in ranked if entry[0] != id)]
            found.append({each: (logprob, rank, _token_bytes(self.tokenizer, each)) for each, logprob, rank in wanted})
        return found


def echoed_prompt(
    tokenizer: Tokenizer, ids: Sequence[int], scores: Sequence[TokenScore] | None, *, top: int = 0, alone: bool
) -> EchoedPrompt:
    """The text of a prompt, in which special tokens that the tokenizer adds have none. Slow: 40 microseconds a token.

    Args:
        scores: of each token but the first, as of `score_prompt`; None: no log-probabilities are wanted.
        top: most likely tokens that are wanted of each.
    """
    stream, text, logprobs = StreamDetokenizer(tokenizer), "", []
    for place, id in enumerate(ids):
        begin = stream.num_decoded
        text += stream.push(id)
        if scores is not None:
            score = scores[place - 1] if place else None
            likely, logprob = ([], None) if score is None else (score.top[:top], score.logprob)
            top_logprobs = [(_token_bytes(tokenizer, each), value) for each, value in likely]
            logprobs.append(TokenLogprob(_token_bytes(tokenizer, id), logprob, begin, top_logprobs))
    return EchoedPrompt(text + stream.finish(), logprobs, alone)


def _token_bytes(tokenizer: Tokenizer, id: int) -> bytes:
    return tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""


@dataclass(frozen=True)
class ChoiceDelta:
    """Text and tokens that one engine output adds to a choice."""

    index: int
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: str | None


@dataclass
class SearchedChoice:
    """A text that beam search found."""

    index: int
    text: str
    num_tokens: int
    finish_reason: str
    logprobs: list[TokenLogprob] = field(default_factory=list)
    scored_prompt: ScoredPrompt | None = None


class CompletionChoice:
    """The completion of one prompt.

    Args:
        index: of the choice in the response.
        stop: strings that end the text.
        context: tokens that the text continues.
        visible: special tokens whose text is kept.
        echo: the prompt, if it begins the text.
        with_logprobs: the engine's log-probabilities are part of the choice; else they only serve to choose the best.
        scored_prompt: its prompt, if the log-probabilities of that are part of the response.
    """

    def __init__(
        self,
        index: int,
        request: Request,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        context: Sequence[int],
        visible: Collection[int] = (),
        echo: EchoedPrompt | None = None,
        with_logprobs: bool = True,
        scored_prompt: ScoredPrompt | None = None,
    ):
        self.index = index
        self.request, self.scored_prompt = request, scored_prompt
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.num_tokens = 0
        self.finish_reason: str | None = None
        self._held_back: list[TokenLogprob] = []  # of tokens whose text is not sent yet, or is a stop string
        self._tokenizer = tokenizer
        self._stream = StreamDetokenizer(tokenizer, context, stop, visible)
        self._with_logprobs = with_logprobs
        self._alone = echo is not None and echo.alone
        if echo is not None:
            self.text, self.logprobs = echo.text, list(echo.logprobs)
        self._begin = len(self.text)
        self._total = 0.0

    def add_output(self, output: StepOutput) -> ChoiceDelta:
        """Append one engine output."""
        text = ""
        if self._alone:
            self.finish_reason = "length"
            return ChoiceDelta(self.index, "", [], self.finish_reason)
        if output.token is not None:
            self.num_tokens += 1
            self._total += output.logprob or 0.0
            begin = self._begin + self._stream.num_decoded
            text = self._stream.push(output.token)
            if output.logprob is not None and self._with_logprobs:
                top_logprobs = [(_token_bytes(self._tokenizer, id), logprob) for id, logprob in output.top_logprobs]
                content = _token_bytes(self._tokenizer, output.token)
                self._held_back.append(TokenLogprob(content, output.logprob, begin, top_logprobs))
        if output.finish_reason and not self._stream.stopped:
            text += self._stream.finish()
        self.finish_reason = "stop" if self._stream.stopped else output.finish_reason
        self.text += text
        logprobs = self._sent_logprobs()
        self.logprobs += logprobs
        return ChoiceDelta(self.index, text, logprobs, self.finish_reason)

    @property
    def mean_logprob(self) -> float:
        """The log-probability per generated token, by which `best_of` chooses."""
        return self._total / max(self.num_tokens, 1)

    def echoed(self) -> ChoiceDelta | None:
        """The prompt, if it begins the text."""
        return ChoiceDelta(self.index, self.text, list(self.logprobs), None) if self.text or self.logprobs else None

    def _sent_logprobs(self) -> list[TokenLogprob]:
        """The log-probabilities of tokens whose text was sent; at a stop token or at the limit, of all."""
        complete = self.finish_reason is not None and not self._stream.stopped
        sent = [each for each in self._held_back if complete or each.offset < len(self.text)]
        self._held_back = self._held_back[len(sent) :]
        return sent


@dataclass
class CompletionChoices:
    """All choices of one response.

    Attributes:
        prompt_tokens: of the prompts, each counted once, however many choices it has.
    """

    stream: OutputStream
    choices: list[CompletionChoice]
    prompt_tokens: int
    metrics: ServerMetrics
    candidates: int | None = None
    """Choices of a prompt of which the most likely ones are kept; None: all are."""
    kept: int = 1
    started: float = field(default_factory=time.perf_counter)

    async def deltas(self) -> AsyncIterator[ChoiceDelta]:
        """Deltas of all choices in order of arrival, until all are finished. Raises ApiError when the model fails."""
        by_request = {choice.request: choice for choice in self.choices}
        for choice in self.choices:
            if (delta := choice.echoed()) is not None:
                yield delta
        first = True
        while by_request:
            output = await self.stream.next()
            if first:
                self.metrics.first_token_seconds.observe(time.perf_counter() - self.started)
                first = False
            if output.error is not None:
                if isinstance(output.error, NoTokenFitsError):
                    raise ApiError(400, output.error.message, code="no_token_fits")
                raise ApiError(500, output.error.message, code="invalid_logits")
            choice = by_request[output.request]
            delta = choice.add_output(output)
            self.metrics.generated_tokens += output.token is not None
            if choice.finish_reason:
                self.stream.cancel(choice.request)  # the engine does not know stop strings
                del by_request[choice.request]
            yield delta

    def best(self) -> list[CompletionChoice]:
        """The choices of the response: of each prompt's candidates the `kept` with the highest log-probability per token."""
        if self.candidates is None:
            return self.choices
        groups = [self.choices[i : i + self.candidates] for i in range(0, len(self.choices), self.candidates)]
        ranked = [sorted(group, key=lambda each: -each.mean_logprob)[: self.kept] for group in groups]
        found = [choice for group in ranked for choice in group]
        for index, choice in enumerate(found):
            choice.index = index
        return found

    def usage(self) -> dict[str, int]:
        prompt = self.prompt_tokens
        generated = sum(each.num_tokens for each in self.choices)  # of candidates that are not returned, too
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
