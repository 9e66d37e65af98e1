"""One model under a name: its prompts, its limits, its answers."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.generate import GrammarCompiler, Request, encode_prompt
from groundup.generate.constrained_decoding import Grammar
from groundup.generate.generation import GenerativeModel, continued_ids, max_prompt_tokens
from groundup.generate.target_language import language_prefix
from groundup.generate.text_embedding import batches_by_length, embed_batch
from groundup.model import Encoder
from groundup.model.serialization import weight_dtype
from groundup.serve.answer_grammar import GrammarBuilder
from groundup.serve.api_error import ApiError
from groundup.serve.chat_protocol import ConversationRequest, RequestMessage, RequestTool
from groundup.serve.completion_choices import CompletionChoice, CompletionChoices, EchoedPrompt, ScoredPrompt
from groundup.serve.engine_thread import EngineThread
from groundup.serve.prometheus import ServerMetrics
from groundup.serve.protocol import MAX_CHOICES, SamplingRequest
from groundup.serve.tool_calls import ToolSyntax, tool_syntax
from groundup.tokenizer import Tokenizer

TEMPLATE_VARIABLES = frozenset(("self", "template", "messages", "tools", "now", "xml_tools"))
"""What `chat_template_kwargs` cannot set, beside the fields of requests."""

MAX_LOGPROBS = 500_000
"""Of one response: 300 MB as objects, and a second to write as JSON."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that requests name.

    Attributes:
        aliases: other names of it.
        max_tokens: upper limit of generated tokens; larger values in requests are reduced to it.
        created: when it was loaded, in seconds since 1970.
        starters: messages that the page offers.
        adapter: name of its adapter in the engine.
        traces: the server traces its answers to training text.
    """

    model: GenerativeModel | Encoder
    tokenizer: Tokenizer
    name: str
    engine_thread: EngineThread
    metrics: ServerMetrics
    max_tokens: int
    created: int
    aliases: Sequence[str] = ()
    starters: Sequence[str] = ()
    adapter: str | None = None
    traces: bool = False

    @property
    def is_decoder(self) -> bool:
        return self.model.config.architecture == "decoder"

    def cards(self) -> list[dict[str, Any]]:
        """Its entries in the list of models: one for each name."""
        return [self._card(name) for name in (self.name, *self.aliases)]

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "groundup",
            "root": self.name,
            "context_length": self.model.config.context_length,
            "architecture": self.model.config.architecture,
            "dtype": weight_dtype(self.model),
            "chat": self.is_decoder and self.tokenizer.chat_template is not None,
            "starters": [*self.starters],
            "trace": self.traces,
        }

    # ---- prompts

    async def text_ids(self, prompts: Sequence[str | list[int]], param: str = "prompt") -> list[list[int]]:
        """The ids of texts, and lists of ids as they are. Raises ApiError 400 for ids outside of the vocabulary."""
        return await _in_thread(lambda: [self._prompt_ids(prompt) for prompt in prompts], param)

    async def conversation_ids(self, body: ConversationRequest, tools: Sequence[RequestTool]) -> list[int]:
        """The prompt of a conversation, up to where the answer begins. Raises ApiError 400."""
        return await self.rendered_ids(
            body.messages,
            tools,
            add_generation_prompt=not body.continues_message,
            continue_final_message=body.continues_message,
            names=self._template_names(body),
        )

    async def rendered_ids(
        self,
        messages: Sequence[RequestMessage],
        tools: Sequence[RequestTool] | None,
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        names: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """A conversation as the chat template writes it. Raises ApiError 400."""
        template = self.chat_template()
        chat = [message.to_chat_message() for message in messages]
        variables = dict(names or {})
        if tools:
            variables["tools"] = [tool.to_template() for tool in tools]
            if "xml_tools" in template:  # SmolLM3's name
                variables["xml_tools"] = variables["tools"]
        render = partial(
            self.tokenizer.render_chat,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            now=datetime.now(),
            **variables,
        )
        without_null = [{**message, "content": message["content"] or ""} for message in chat]
        try:
            return await _in_thread(lambda: render(chat), "messages")
        except ApiError:
            if without_null == chat:
                raise
        # a template that reads the content of messages with calls as well
        return await _in_thread(lambda: render(without_null), "messages")

    def chat_template(self) -> str:
        """Raises ApiError 400 for a model that does not chat."""
        self.refuse_encoder()
        if not self.is_decoder:
            raise ApiError(
                400,
                f"{self.name} is an encoder-decoder, which turns one text into another, expected a chat model; "
                "use /v1/completions",
                code="no_chat_template",
            )
        if self.tokenizer.chat_template is None:
            raise ApiError(
                400,
                f"{self.name} is a base model without a chat template, expected a chat model; use /v1/completions",
                code="no_chat_template",
            )
        return self.tokenizer.chat_template

    def tool_syntax(self) -> ToolSyntax:
        """How the model writes calls. Raises ApiError 400 if its template has no tools."""
        template = self.chat_template()
        syntax = tool_syntax(self.tokenizer.tool_template or template)
        if syntax is None:
            raise ApiError(
                400,
                f"tools: the chat template of {self.name} has no known form of tool calls, expected a model with one",
                param="tools",
                code="unsupported",
            )
        return syntax

    def _template_names(self, body: ConversationRequest) -> dict[str, Any]:
        names = dict(body.chat_template_kwargs or {})
        if reserved := [name for name in names if name in TEMPLATE_VARIABLES or name in type(body).model_fields]:
            raise ApiError(
                400, f"chat_template_kwargs: {reserved[0]} is set by the request", param="chat_template_kwargs"
            )
        if body.reasoning_effort is not None:
            if "reasoning_effort" not in (self.tokenizer.chat_template or ""):
                raise ApiError(
                    400,
                    f"reasoning_effort: the chat template of {self.name} has none",
                    param="reasoning_effort",
                    code="unsupported",
                )
            names["reasoning_effort"] = body.reasoning_effort
        return names

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return encode_prompt(self.model, self.tokenizer, prompt)
        vocab_size = self.model.config.vocab_size
        if prompt and max(prompt) >= vocab_size:
            raise UserError(f"token id {max(prompt)}, expected 0 to {vocab_size - 1}")
        return prompt

    # ---- forms of answers

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer)

    async def grammar(self, build: GrammarBuilder | None, param: str) -> Grammar | None:
        """A compiled grammar. Raises ApiError 400, which names `param`, for one that cannot be compiled."""
        if build is None:
            return None
        try:
            return await _in_thread(lambda: build(self._compiler), param)
        except ImportError:
            raise ApiError(
                400, "answers of a given form need the package llguidance on the server: pip install 'groundup[grammar]'",
                param=param, code="unsupported",
            ) from None  # fmt: skip

    def call_begin_ids(self, syntax: ToolSyntax) -> list[int]:
        """The tokens before the first call of an answer."""
        id = self.tokenizer.token_id(syntax.begin)
        return [id] if id in self.tokenizer.special_ids and id is not None else self.tokenizer.encode(syntax.begin)

    # ---- limits

    def refuse_encoder(self) -> None:
        if self.model.config.architecture == "encoder":
            raise ApiError(
                400,
                f"{self.name} is an encoder, which embeds texts and does not write them; use /v1/embeddings",
                code="encoder",
            )

    def check_length(self, prompt: Sequence[int], limit: int) -> None:
        if len(prompt) > limit:
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, expected at most {limit} "
                f"(context length {self.model.config.context_length})",
                code="context_length_exceeded",
            )

    def _check_tokens(self, ids: Iterable[str], field: str) -> None:
        vocab_size = self.model.config.vocab_size
        if unknown := [token for token in ids if int(token) >= vocab_size]:
            raise ApiError(400, f"token id {unknown[0]}, expected 0 to {vocab_size - 1}", param=field)

    # ---- answers

    def submit(
        self,
        body: SamplingRequest,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        logprobs: int | None = None,
        stop: Sequence[str] = (),
        visible: Iterable[str] = (),
        grammar: Grammar | None = None,
        echoes: Sequence[EchoedPrompt] = (),
        scored_prompts: Sequence[ScoredPrompt] = (),
        client: str = "",
        decoder_prefix: Sequence[int] | None = None,
    ) -> CompletionChoices:
        """The answers to prompts, whose generation begins; the caller must close their stream.

        Args:
            stop: strings that end an answer, beside those of the request.
            visible: special tokens whose text stays in the answer.
            grammar: that of every answer; None: any text.
            echoes: the prompts, if they begin the texts.
            scored_prompts: the prompts, if their log-probabilities are part of the response.
            client: who asks; clients take turns.
            decoder_prefix: see `Request`.

        Raises ApiError 400 for a prompt that is too long or log-probabilities that are too many, and 503 when the queue is full.
        """
        for prompt in prompts:
            self.check_length(prompt, max_prompt_tokens(self.model.config))
        self._check_tokens(body.logit_bias or (), "logit_bias")
        if len(prompts) * body.num_choices > MAX_CHOICES:
            raise ApiError(
                400,
                f"{len(prompts)} prompts with n = {body.num_choices}, expected at most {MAX_CHOICES} choices",
                param="n",
            )
        sampling = replace(body.sampling_params(1.0 if self.is_decoder else 0.0), grammar=grammar)
        stop_ids = body.stop_ids(self.tokenizer.stop_ids)
        counted = 0 if logprobs is None and body.num_candidates is not None else logprobs  # to choose the best
        if logprobs is not None:
            max_tokens = self._limit_logprobs(body, len(prompts) * body.num_choices * (logprobs + 1), max_tokens)
        requests = [
            Request(
                prompt,
                min(max_tokens, self.max_tokens),
                sampling.numbered(number),
                stop_ids,
                counted,
                self.adapter,
                decoder_prefix=decoder_prefix,
            )
            for prompt in prompts
            for number in range(body.num_choices)
        ]
        shown = {id for token in visible if (id := self.tokenizer.token_id(token)) in self.tokenizer.special_ids}
        stops = (*body.stop_strings, *stop)
        choices = [
            CompletionChoice(
                i,
                request,
                self.tokenizer,
                stops,
                continued_ids(self.model, request.prompt_ids),
                visible=shown,
                echo=echoes[i // body.num_choices] if echoes else None,
                with_logprobs=logprobs is not None,
                scored_prompt=scored_prompts[i // body.num_choices] if scored_prompts else None,
            )
            for i, request in enumerate(requests)
        ]
        prompt_tokens = sum(map(len, prompts))
        self.metrics.prompt_tokens += prompt_tokens
        stream = self.engine_thread.submit(requests, client)
        return CompletionChoices(stream, choices, prompt_tokens, self.metrics, body.num_candidates, body.n or 1)

    def _limit_logprobs(self, body: SamplingRequest, per_token: int, max_tokens: int) -> int:
        """Generated tokens at most. Raises ApiError 400 where a request asks for more log-probabilities than a response has."""
        most = MAX_LOGPROBS // per_token
        wanted = min(max_tokens, self.max_tokens)
        if body.max_tokens is not None and wanted > most:
            raise ApiError(
                400,
                f"{wanted} tokens with {per_token} log-probabilities each, expected at most {MAX_LOGPROBS:,} in one response",
                param="logprobs",
            )
        return max(min(wanted, most), 1)

    def decoder_prefix(self, language: str | None) -> Sequence[int] | None:
        """The tokens with which a translation into a language begins. Raises ApiError 400 for an unknown one."""
        if language is None:
            return None
        try:
            return language_prefix(self.model, self.tokenizer, language)
        except UserError as error:
            message = error.message + (f" ({error.hint})" if error.hint else "")
            raise ApiError(400, message, param="target_language") from None

    async def embed(self, ids: Sequence[Sequence[int]], client: str) -> list[Tensor]:
        """The vector of each text; other requests run between two batches."""
        vectors: dict[int, Tensor] = {}
        for rows in batches_by_length(ids):
            batch = partial(embed_batch, self.model, [ids[row] for row in rows])
            vectors |= zip(rows, await self.engine_thread.call(batch, client), strict=True)
        return [vectors[row] for row in range(len(ids))]


async def _in_thread(work: Callable[[], Any], param: str) -> Any:
    """Tokenize outside the event loop; a UserError becomes status 400."""
    try:
        return await asyncio.to_thread(work)
    except UserError as error:
        raise ApiError(400, error.message, param=param) from None
