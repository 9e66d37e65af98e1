"""The JSON of responses, whole or in chunks, as OpenAI's API has it: one class for texts, one for chats."""

import secrets
import time
from typing import Any

from groundup.serve.answer import Answer, Delta, Told


class TextShape:
    """`text_completion` objects."""

    def __init__(self, model: str):
        self._head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._kind = "text_completion"

    def opening(self, count: int) -> list[dict[str, Any]]:
        """Chunks that come before anything is generated."""
        return []

    def chunk(self, delta: Delta) -> dict[str, Any]:
        return self._object(self._kind, [self._choice(delta.index, delta.text, delta.told, delta.finish)])

    def whole(self, answers: list[Answer], usage: dict[str, int]) -> dict[str, Any]:
        choices = [self._choice(each.index, each.text, each.told, each.finish) for each in answers]
        return self._object(self._kind, choices) | {"usage": usage}

    def closing(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, for who asked for the usage."""
        return self._object(self._kind, []) | {"usage": usage}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

    def _choice(self, index: int, text: str, told: list[Told], finish: str | None) -> dict[str, Any]:
        logprobs = None
        if told:
            logprobs = {
                "tokens": [token.text for token in told],
                "token_logprobs": [token.logprob for token in told],
                "top_logprobs": [dict(reversed(token.likeliest)) for token in told],
                "text_offset": [token.offset for token in told],
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


class ChatShape:
    """`chat.completion` objects."""

    def __init__(self, model: str):
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def opening(self, count: int) -> list[dict[str, Any]]:
        """Who speaks."""
        return [self._chunk([self._part(i, {"role": "assistant", "content": ""})]) for i in range(count)]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        text = {"content": delta.text} if delta.text else {}
        return self._chunk([self._part(delta.index, text, delta.told, delta.finish)])

    def whole(self, answers: list[Answer], usage: dict[str, int]) -> dict[str, Any]:
        choices = [
            {
                "index": each.index,
                "message": {"role": "assistant", "content": each.text},
                "logprobs": _chat_logprobs(each.told),
                "finish_reason": each.finish,
            }
            for each in answers
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def closing(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, for who asked for the usage."""
        return self._chunk([]) | {"usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}

    def _part(
        self, index: int, delta: dict[str, str], told: list[Told] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": _chat_logprobs(told or []),
            "finish_reason": finish,
        }


Shape = TextShape | ChatShape


def _chat_logprobs(told: list[Told]) -> dict[str, Any] | None:
    if not told:
        return None

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        entry(token.text, token.logprob) | {"top_logprobs": [entry(*best) for best in token.likeliest]}
        for token in told
    ]
    return {"content": content}
