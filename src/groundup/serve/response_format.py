"""JSON responses of OpenAI's API, complete or as stream chunks: text completions, chat completions, embeddings."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor
from torch.nn.functional import normalize

from groundup.serve.completion_choices import ChoiceDelta, CompletionChoice, ScoredPrompt, SearchedChoice, TokenLogprob
from groundup.serve.tool_calls import ToolCall, ToolCallParser

Usage = dict[str, int]

_dumps = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(response: Mapping[str, Any]) -> bytes:
    """A response as JSON. Elements of its lists are written one by one, so that other threads run between two of them."""
    fields = {
        name: f"[{','.join(map(_dumps, value))}]" if isinstance(value, list) else _dumps(value)
        for name, value in response.items()
    }
    return f"{{{','.join(f'{_dumps(name)}:{text}' for name, text in fields.items())}}}".encode()


class ResponseFormatter(Protocol):
    """The objects of one response: the chunks of a stream, or one object."""

    named_events: bool
    """Whether the chunks are events whose name is their `type`, without [DONE] at the end."""

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        """Chunks sent before the first token, for so many choices."""
        ...

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]: ...

    def last_chunks(self, choices: list[CompletionChoice], usage: Usage) -> list[dict[str, Any]]:
        """Chunks sent after the last token."""
        ...

    def full_response(self, choices: list[CompletionChoice], usage: Usage) -> dict[str, Any]: ...


class CompletionFormatter:
    """`text_completion` objects."""

    named_events = False

    def __init__(self, model: str, *, include_usage: bool = False):
        self._common_fields = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._include_usage = include_usage

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        return []

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return []
        chunk = self._object([self._choice(delta.index, delta.text, delta.logprobs, delta.finish_reason)])
        return [chunk | {"usage": None} if self._include_usage else chunk]

    def last_chunks(self, choices: list[CompletionChoice], usage: Usage) -> list[dict[str, Any]]:
        return [self._object([]) | {"usage": usage}] if self._include_usage else []

    def full_response(self, choices: Sequence[CompletionChoice | SearchedChoice], usage: Usage) -> dict[str, Any]:
        objects = [
            self._choice(choice.index, choice.text, choice.logprobs, choice.finish_reason)
            | _prompt_logprobs(choice.scored_prompt)
            for choice in choices
        ]
        return self._object(objects) | {"usage": usage}

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common_fields, "object": "text_completion", "choices": choices}

    def _choice(
        self, index: int, text: str, token_logprobs: list[TokenLogprob], finish_reason: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if token_logprobs:
            logprobs = {
                "tokens": [token_text(token.content) for token in token_logprobs],
                "token_logprobs": [token.logprob for token in token_logprobs],
                "top_logprobs": [
                    {token_text(content): logprob for content, logprob in reversed(token.top_logprobs)}
                    for token in token_logprobs
                ],
                "text_offset": [token.offset for token in token_logprobs],
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


class ChatFormatter:
    """`chat.completion` objects.

    Args:
        new_parser: returns a parser of tool calls for one choice; None: the answer is text.
        max_calls: calls of an answer at most.
    """

    named_events = False

    def __init__(
        self,
        model: str,
        *,
        include_usage: bool = False,
        new_parser: Callable[[], ToolCallParser] | None = None,
        max_calls: int | None = None,
    ):
        self._common_fields = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._include_usage, self._new_parser, self._max_calls = include_usage, new_parser, max_calls
        self._parsers: dict[int, ToolCallParser] = {}

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        """Chunks with the role."""
        return [self._chunk([self._chunk_choice(i, {"role": "assistant", "content": ""})]) for i in range(count)]

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        content, calls, first = delta.text, list[ToolCall](), 0
        if self._new_parser is not None:
            parser = self._parsers.setdefault(delta.index, self._new_parser())
            first = len(parser.calls)
            content, calls = parser.push(delta.text, last=delta.finish_reason is not None)
            calls = calls[: None if self._max_calls is None else max(self._max_calls - first, 0)]
        parts: list[dict[str, Any]] = [{"content": content}] if content else []
        parts += [{"tool_calls": [{"index": first + i} | _call_object(call)]} for i, call in enumerate(calls)]
        if not parts and (delta.logprobs or delta.finish_reason):
            parts.append({})
        reason = self._finish_reason(delta.index, delta.finish_reason)
        return [
            self._chunk([
                self._chunk_choice(
                    delta.index,
                    part,
                    delta.logprobs if number == 0 else None,
                    reason if number == len(parts) - 1 else None,
                )
            ])
            for number, part in enumerate(parts)
        ]  # fmt: skip

    def last_chunks(self, choices: list[CompletionChoice], usage: Usage) -> list[dict[str, Any]]:
        return [self._chunk([]) | {"usage": usage}] if self._include_usage else []

    def full_response(self, choices: list[CompletionChoice], usage: Usage) -> dict[str, Any]:
        objects = []
        for choice in choices:
            message: dict[str, Any] = {"role": "assistant", "content": choice.text}
            if self._new_parser is not None:
                parser = self._parsers[choice.index] = self._new_parser()
                content, calls = parser.push(choice.text, last=True)
                message["content"] = content or (None if calls else "")
                if calls:
                    message["tool_calls"] = [_call_object(call) for call in calls[: self._max_calls]]
            objects.append({
                "index": choice.index,
                "message": message,
                "logprobs": _chat_logprobs(choice.logprobs),
                "finish_reason": self._finish_reason(choice.index, choice.finish_reason),
            })  # fmt: skip
        response = {**self._common_fields, "object": "chat.completion", "choices": objects, "usage": usage}
        return response | _prompt_logprobs(choices[0].scored_prompt)

    def _finish_reason(self, index: int, reason: str | None) -> str | None:
        calls = self._parsers[index].calls if index in self._parsers else ()
        return "tool_calls" if calls and reason == "stop" else reason

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage else {}  # as OpenAI sends it: known at the end only
        return {**self._common_fields, "object": "chat.completion.chunk", "choices": choices, **usage}

    def _chunk_choice(
        self,
        index: int,
        delta: dict[str, Any],
        token_logprobs: list[TokenLogprob] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": _chat_logprobs(token_logprobs or []),
            "finish_reason": finish_reason,
        }


def _prompt_logprobs(prompt: ScoredPrompt | None) -> dict[str, Any]:
    """The field of vLLM: for each token of the prompt, objects by token id; null for the first."""
    if prompt is None:
        return {}
    objects = [
        entry
        and {
            str(id): {"logprob": logprob, "rank": rank, "decoded_token": token_text(content)}
            for id, (logprob, rank, content) in entry.items()
        }
        for entry in prompt.entries()
    ]
    return {"prompt_logprobs": objects}


def _call_object(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def token_text(content: bytes) -> str:
    """The text of a token; bytes of an incomplete character as OpenAI writes them, such as \\xe6.

    >>> token_text(b"\\xe6 a")
    '\\\\xe6 a'
    """
    return content.decode("utf-8", "backslashreplace")


def _chat_logprobs(token_logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
    if not token_logprobs:
        return None

    def entry(content: bytes, logprob: float | None) -> dict[str, Any]:
        return {"token": token_text(content), "logprob": logprob, "bytes": list(content)}

    content = [
        entry(token.content, token.logprob) | {"top_logprobs": [entry(*top) for top in token.top_logprobs]}
        for token in token_logprobs
    ]
    return {"content": content}


def format_embeddings(
    name: str, vectors: Sequence[Tensor], ids: Sequence[Sequence[int]], dimensions: int | None, encoding: str | None
) -> dict[str, Any]:
    """The response of /v1/embeddings; shortened vectors are normalized again. base64: little-endian float32."""
    data = []
    for index, vector in enumerate(vectors):
        vector = normalize(vector[:dimensions], dim=0)
        if encoding == "base64":
            embedding = base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
        else:
            embedding = vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    count = sum(map(len, ids))
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": name, "usage": usage}
