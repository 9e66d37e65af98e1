"""`response` objects of OpenAI's Responses API, and the events of their streams."""

import secrets
import time
from collections.abc import Callable
from typing import Any

from groundup.serve.completion_choices import ChoiceDelta, CompletionChoice
from groundup.serve.response_format import Usage
from groundup.serve.responses_protocol import ResponsesRequest
from groundup.serve.tool_calls import ToolCall, ToolCallParser


class ResponsesFormatter:
    """One response: a message, function calls, or both.

    Args:
        new_parser, max_calls: as for `ChatFormatter`.
    """

    named_events = True

    def __init__(
        self,
        model: str,
        request: ResponsesRequest,
        *,
        new_parser: Callable[[], ToolCallParser] | None = None,
        max_calls: int | None = None,
    ):
        self._parser = None if new_parser is None else new_parser()
        self._max_calls = max_calls
        self._message_id = f"msg_{secrets.token_hex(12)}"
        self._output: list[dict[str, Any]] = []
        self._number = 0
        self._reason: str | None = None
        self._fields = {
            "id": f"resp_{secrets.token_hex(12)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
        }
        if request.tools:
            self._fields["tools"] = [tool.model_dump() for tool in request.tools]
        if request.tool_choice is not None:
            choice = request.tool_choice
            self._fields["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
        if request.text and request.text.format:
            self._fields["text"] = {"format": request.text.format.model_dump(by_alias=True, exclude_none=True)}

    # ---- one object

    def full_response(self, choices: list[CompletionChoice], usage: Usage) -> dict[str, Any]:
        (choice,) = choices
        text, calls = self._parsed(choice.text, last=True)
        if text or not calls:
            self._output.append(self._message(text, self._status(choice.finish_reason)))
        self._output += [_call_item(call, "completed") for call in calls]
        return self._response(choice.finish_reason, usage)

    # ---- events

    def first_chunks(self, count: int) -> list[dict[str, Any]]:
        response = {**self._fields, "status": "in_progress", "output": [], "usage": None}
        return [self._event(f"response.{name}", response=response) for name in ("created", "in_progress")]

    def chunks(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        self._reason = delta.finish_reason or self._reason
        text, calls = self._parsed(delta.text, last=delta.finish_reason is not None)
        events = self._text_events(text) if text or (delta.finish_reason and not calls and not self._output) else []
        for call in calls:
            events += self._end_of_text(None) + self._call_events(call)
        return events + (self._end_of_text(delta.finish_reason) if delta.finish_reason else [])

    def last_chunks(self, choices: list[CompletionChoice], usage: Usage) -> list[dict[str, Any]]:
        response = self._response(self._reason, usage)
        return [self._event(f"response.{response['status']}", response=response)]

    def _text_events(self, text: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if not self._message_is_open():
            self._output.append(self._message("", "in_progress"))
            opened = {**self._output[-1], "content": []}
            events.append(self._event("response.output_item.added", output_index=self._last, item=opened))
            events.append(self._part_event("added", ""))
        self._output[-1]["content"][0]["text"] += text
        if text:
            place = self._place() | {"delta": text, "logprobs": []}
            events.append(self._event("response.output_text.delta", **place))
        return events

    def _end_of_text(self, reason: str | None) -> list[dict[str, Any]]:
        if not self._message_is_open():
            return []
        item = self._output[-1]
        item["status"] = self._status(reason)
        text = item["content"][0]["text"]
        return [
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[]),
            self._part_event("done", text),
            self._event("response.output_item.done", output_index=self._last, item=item),
        ]

    def _call_events(self, call: ToolCall) -> list[dict[str, Any]]:
        item = _call_item(call, "completed")
        self._output.append(item)
        place = {"item_id": item["id"], "output_index": self._last}
        opened = {**item, "status": "in_progress", "arguments": ""}
        kind = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=self._last, item=opened),
            self._event(f"{kind}.delta", **place, delta=call.arguments),
            self._event(f"{kind}.done", **place, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=self._last, item=item),
        ]

    # ----

    def _parsed(self, text: str, *, last: bool) -> tuple[str, list[ToolCall]]:
        if self._parser is None:
            return text, []
        before = len(self._parser.calls)
        content, calls = self._parser.push(text, last=last)
        return content, calls[: None if self._max_calls is None else max(self._max_calls - before, 0)]

    def _response(self, reason: str | None, usage: Usage) -> dict[str, Any]:
        cut = reason == "length"
        return {
            **self._fields,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    @property
    def _last(self) -> int:
        return len(self._output) - 1

    def _message_is_open(self) -> bool:
        return bool(self._output) and self._output[-1]["status"] == "in_progress"

    def _message(self, text: str, status: str) -> dict[str, Any]:
        # several messages of one response, around a call, have ids of their own
        id = f"{self._message_id}{len(self._output) or ''}"
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        return {"id": id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _status(self, reason: str | None) -> str:
        return "incomplete" if reason == "length" else "completed"

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": self._last, "content_index": 0}

    def _part_event(self, name: str, text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return self._event(f"response.content_part.{name}", **self._place(), part=part)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def _call_item(call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(12)}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }
