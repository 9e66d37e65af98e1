"""JSON responses of OpenAI's API, complete or as stream chunks: text completions, chat completions, embeddings."""

import base64
import secrets
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from groundup.serve.completion_choices import ChoiceDelta, CompletionChoice, TokenLogprob


class CompletionFormatter:
    """`text_completion` objects."""

    def __init__(self, model: str):
        self._common_fields = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        """Chunks sent before the first token."""
        return []

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        return self._object([self._choice(delta.index, delta.text, delta.logprobs, delta.finish_reason)])

    def full_response(self, choices: list[CompletionChoice], usage: dict[str, int]) -> dict[str, Any]:
        objects = [self._choice(choice.index, choice.text, choice.logprobs, choice.finish_reason) for choice in choices]
        return self._object(objects) | {"usage": usage}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk if stream_options.include_usage is set."""
        return self._object([]) | {"usage": usage}

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
    """`chat.completion` objects."""

    def __init__(self, model: str):
        self._common_fields = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        """Chunks with the role, sent before the first token."""
        return [self._chunk([self._chunk_choice(i, {"role": "assistant", "content": ""})]) for i in range(count)]

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        text = {"content": delta.text} if delta.text else {}
        return self._chunk([self._chunk_choice(delta.index, text, delta.logprobs, delta.finish_reason)])

    def full_response(self, choices: list[CompletionChoice], usage: dict[str, int]) -> dict[str, Any]:
        objects = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text},
                "logprobs": _chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ]
        return {**self._common_fields, "object": "chat.completion", "choices": objects, "usage": usage}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk if stream_options.include_usage is set."""
        return self._chunk([]) | {"usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common_fields, "object": "chat.completion.chunk", "choices": choices}

    def _chunk_choice(
        self,
        index: int,
        delta: dict[str, str],
        token_logprobs: list[TokenLogprob] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": _chat_logprobs(token_logprobs or []),
            "finish_reason": finish_reason,
        }


ResponseFormatter = CompletionFormatter | ChatFormatter


def token_text(content: bytes) -> str:
    """The text of a token; bytes of an incomplete character as OpenAI writes them, such as \\xe6.

    >>> token_text(b"\\xe6 a")
    '\\\\xe6 a'
    """
    return content.decode("utf-8", "backslashreplace")


def _chat_logprobs(token_logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
    if not token_logprobs:
        return None

    def entry(content: bytes, logprob: float) -> dict[str, Any]:
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
