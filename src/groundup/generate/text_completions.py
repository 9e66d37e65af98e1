"""Completions of many texts in one batch: several samples each, stop strings, log-probabilities; a fault ends one text alone."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate.batching_engine import BatchingEngine
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import GenerativeModel, continued_ids, encode_prompt, require_generative
from groundup.generate.request import Request, StepOutput
from groundup.generate.sampling import SamplingParams
from groundup.generate.speculative_decoding import Proposer
from groundup.tokenizer import Tokenizer


@dataclass(eq=False)
class TextCompletion:
    """One answer to one text.

    Attributes:
        prompt: index of the text.
        tokens: of the answer, with those of a stop string.
        logprobs: of each token, in nats, with the most likely tokens at its place.
        finish_reason: "stop", "length" or "error".
        error: why there is no answer, or none beyond `text`.
    """

    prompt: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    finish_reason: str | None = None
    error: UserError | None = None

    @property
    def mean_logprob(self) -> float:
        """The log-probability per token, by which `best_of` chooses; an answer with a fault is the worst."""
        if self.error is not None:
            return float("-inf")
        return sum(logprob for logprob, _ in self.logprobs) / max(len(self.logprobs), 1)


def generate_texts(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
) -> list[str]:
    """`generate_text` for many texts, in batches: continuations, or translations and summaries of an encoder-decoder.

    >>> generate_texts(model, tokenizer, ["Save changes", "Password"], sampling=GREEDY)
    """
    model = require_generative(model)
    prompts = [encode_prompt(model, tokenizer, text) for text in texts]
    answers = generate_many(model, prompts, max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids)
    return [
        StreamDetokenizer(tokenizer, continued_ids(model, prompt)).decode_all(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def generate_many(
    model: GenerativeModel,
    prompts: Iterable[Sequence[int]],
    *,
    max_tokens: int,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
    max_batch: int = 8,
    proposer: Proposer | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, generated in one batch; with a seed, prompt i is sampled with seed + i.

    >>> generate_many(model, [tokenizer.encode(text) for text in prompts], max_tokens=50)
    """
    engine = BatchingEngine(model, max_batch=max_batch, proposer=proposer)
    requests = []
    for index, prompt in enumerate(prompts):
        requests.append(Request(prompt, max_tokens, sampling.numbered(index), stop_ids))
        engine.submit(requests[-1])
    while engine.busy:
        for output in engine.step():
            if output.error is not None:
                raise output.error
    return [request.tokens for request in requests]


def complete_texts(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Iterable[str | list[int]],
    *,
    n: int = 1,
    best_of: int | None = None,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    max_tokens: int = 128,
    stop: Sequence[str] = (),
    logprobs: int | None = None,
    max_batch: int = 8,
    proposer: Proposer | None = None,
) -> Iterator[list[TextCompletion]]:
    """The `n` answers to each text, in the order of `texts`, each text as soon as those before it are complete.

    With a seed, sample i of all is sampled with seed + i.

    Args:
        texts: texts, or ids of texts.
        best_of: samples of a text, of which the `n` with the highest log-probability per token are returned.
        stop: strings at which an answer ends; they are no part of it.
        logprobs: also the log-probability of each token and of this many most likely tokens.
        proposer: guesses tokens (speculative decoding); its counts tell how well.

    Raises UserError for an encoder. A text that is too long or empty is an answer with an error.

    >>> for (answer,) in complete_texts(model, tokenizer, ["Save changes", "Password"]):
    ...     print(answer.text)
    """
    model = require_generative(model)
    samples = max(n, best_of or n)
    engine = BatchingEngine(model, max_batch=max_batch, proposer=proposer)
    counted = 0 if logprobs is None and best_of is not None else logprobs
    open_texts: dict[int, list[_Answer]] = {}
    source, complete, number = iter(texts), 0, 0
    exhausted = False
    while not exhausted or open_texts:
        while engine.waiting < max_batch and not exhausted:
            if (text := next(source, None)) is None:
                exhausted = True
                break
            answers = [_Answer(model, tokenizer, number, text, stop) for _ in range(samples)]
            for place, answer in enumerate(answers):
                knobs = sampling.numbered(number * samples + place)
                request = Request(answer.prompt_ids, max_tokens, knobs, tokenizer.stop_ids, counted)
                answer.submit(engine, request)
            open_texts[number] = answers
            number += 1
        by_request = {answer.request: answer for answers in open_texts.values() for answer in answers}
        for output in engine.step() if engine.busy else ():
            if by_request[output.request].completion.finish_reason:  # tokens of the same step after a stop string
                continue
            if by_request[output.request].add(output):
                engine.cancel(output.request)  # the engine does not know stop strings
        while complete in open_texts and all(answer.completion.finish_reason for answer in open_texts[complete]):
            found = [answer.completion for answer in open_texts.pop(complete)]
            yield found if samples == n else sorted(found, key=lambda each: -each.mean_logprob)[:n]
            complete += 1


class _Answer:
    """A completion in progress."""

    def __init__(
        self, model: GenerativeModel, tokenizer: Tokenizer, number: int, text: str | list[int], stop: Sequence[str]
    ):
        self.completion = TextCompletion(number)
        self.request: Request | None = None
        self.prompt_ids: list[int] = []
        try:
            self.prompt_ids = encode_prompt(model, tokenizer, text) if isinstance(text, str) else text
        except UserError as error:
            self._fail(error)
        self._detokenizer = StreamDetokenizer(tokenizer, continued_ids(model, self.prompt_ids), stop)

    def submit(self, engine: BatchingEngine, request: Request) -> None:
        if self.completion.error is None:
            try:
                engine.submit(request)
                self.request = request
            except UserError as error:
                self._fail(error)

    def add(self, output: StepOutput) -> bool:
        """Append an output of the engine; whether a stop string ended the answer."""
        completion = self.completion
        if output.token is not None:
            completion.tokens.append(output.token)
            completion.text += self._detokenizer.push(output.token)
            if output.logprob is not None:
                completion.logprobs.append((output.logprob, output.top_logprobs))
        if self._detokenizer.stopped:
            completion.finish_reason = "stop"
            return output.finish_reason is None
        if output.finish_reason:
            completion.text += self._detokenizer.finish()
            completion.finish_reason, completion.error = output.finish_reason, output.error
        return False

    def _fail(self, error: UserError) -> None:
        self.completion.finish_reason, self.completion.error = "error", error
