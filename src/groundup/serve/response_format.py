"""The JSON of responses, whole or in chunks, as OpenAI's API has it: one class for texts, one for chats."""

import secrets
import time
from typing import Any

from groundup.serve.completion_choices import ChoiceDelta, CompletionChoice, TokenLogprob


class CompletionFormatter:
    """`text_completion` objects."""

    def __init__(self, model: str):
        self._head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._kind = "text_completion"

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        """Chunks that come before anything is generated."""
        return []

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        return self._object(
            self._kind, [self._choice(delta.index, delta.text, delta.logprobs, delta.finish_reason)]
        )

    def full_response(self, answers: list[CompletionChoice], usage: dict[str, int]) -> dict[str, Any]:
        choices = [self._choice(each.index, each.text, each.logprobs, each.finish_reason) for each in answers]
        return self._object(self._kind, choices) | {"usage": usage}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, for who asked for the usage."""
        return self._object(self._kind, []) | {"usage": usage}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

    def _choice(
        self, index: int, text: str, token_logprobs: list[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if token_logprobs:
            logprobs = {
                "tokens": [token.text for token in token_logprobs],
                "token_logprobs": [token.logprob for token in token_logprobs],
                "top_logprobs": [dict(reversed(token.top_logprobs)) for token in token_logprobs],
                "text_offset": [token.offset for token in token_logprobs],
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


class ChatFormatter:
    """`chat.completion` objects."""

    def __init__(self, model: str):
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        """Who speaks."""
        return [
            self._chunk([self._chunk_choice(i, {"role": "assistant", "content": ""})]) for i in range(count)
        ]

    def chunk(self, delta: ChoiceDelta) -> dict[str, Any]:
        text = {"content": delta.text} if delta.text else {}
        return self._chunk([self._chunk_choice(delta.index, text, delta.logprobs, delta.finish_reason)])

    def full_response(self, answers: list[CompletionChoice], usage: dict[str, int]) -> dict[str, Any]:
        choices = [
            {
                "index": each.index,
                "message": {"role": "assistant", "content": each.text},
                "logprobs": _chat_logprobs(each.logprobs),
                "finish_reason": each.finish_reason,
            }
            for each in answers
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, for who asked for the usage."""
        return self._chunk([]) | {"usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}

    def _chunk_choice(
        self,
        index: int,
        delta: dict[str, str],
        token_logprobs: list[TokenLogprob] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": _chat_logprobs(token_logprobs or []),
            "finish_reason": finish,
        }


ResponseFormatter = CompletionFormatter | ChatFormatter


def _chat_logprobs(token_logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
    if not token_logprobs:
        return None

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        entry(token.text, token.logprob) | {"top_logprobs": [entry(*best) for best in token.top_logprobs]}
        for token in token_logprobs
    ]
    return {"content": content}
