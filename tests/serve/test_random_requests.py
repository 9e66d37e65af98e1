"""Ten thousand requests that are nearly right: none causes a server error or disturbs another request."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted_model import scripted_model
from starlette.testclient import TestClient
from test_agents import ADD, BOUNDED, TWO_CALLS

from groundup.serve import create_app

MESSAGES = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "tool_calls": [{"id": "123456789", "function": {"name": "add", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "123456789", "content": "5"},
]
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": BOUNDED}}
BODIES = {
    "/v1/chat/completions": {
        "messages": MESSAGES, "tools": [ADD], "tool_choice": "required", "stream": False, "temperature": 0.5, "top_p": 0.9,
        "logprobs": True, "top_logprobs": 2, "stop": ["x"], "seed": 1, "n": 1, "max_tokens": 3, "response_format": FORM,
        "chat_template_kwargs": {"a": 1}, "parallel_tool_calls": False, "stream_options": {"include_usage": True},
    },
    "/v1/completions": {
        "prompt": ["a", "b"], "max_tokens": 2, "logprobs": 1, "logit_bias": {"5": 1}, "structured_outputs": {"regex": "a+"},
        "stream": True, "stop": "b", "repetition_penalty": 1.1, "min_tokens": 1, "stop_token_ids": [3],
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": "1", "output": "2"}],
        "instructions": "I", "tools": [{"type": "function", **ADD["function"]}], "stream": True, "max_output_tokens": 3,
        "text": {"format": {"type": "text"}}, "reasoning": {"effort": None},
    },
    "/v1/embeddings": {"input": ["a", "b"], "dimensions": 4, "encoding_format": "float"},
    "/tokenize": {"messages": MESSAGES, "tools": [ADD], "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2, 3]},
}  # fmt: skip
ODD = (
    None, True, 0, -1, 1, 2**31, 2**70, 0.5, -0.0, 1e300, "", "x", "\x00", "\ufffe\U0010ffff", "x" * 5000, [], {}, [[]], [None],
    {"type": "function"}, {"$ref": "#"}, {"a": {"b": [1]}}, "<|im_start|>", "{{ 7 * 7 }}", "stop", "assistant", [1, 2], ["a"],
)  # fmt: skip


def mutated(draw: random.Random, value):
    """A copy with some parts replaced, removed, doubled or nested."""
    if draw.random() < 0.04:
        return draw.choice(ODD)
    if isinstance(value, dict):
        pairs = {key: mutated(draw, item) for key, item in value.items() if draw.random() > 0.15}
        if draw.random() < 0.03:
            pairs[draw.choice(["", "x", "type", "content", "model", "\u6771"])] = draw.choice(ODD)
        return pairs
    if isinstance(value, list):
        items = [mutated(draw, item) for item in value if draw.random() > 0.1]
        return items * 2 if draw.random() < 0.05 else [items] if draw.random() < 0.02 else items
    return value


def body_of(draw: random.Random, path: str) -> bytes:
    text = json.dumps(mutated(draw, BODIES[path]), ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    if draw.random() < 0.05:
        place = draw.randrange(len(text) + 1)
        text = text[:place] + draw.randbytes(2) + text[place + draw.randrange(3) :]
    return text


def check_requests(count: int) -> dict[int, int]:
    """Send so many, and between them a request with a known answer. Returns the number of each status."""
    statuses: dict[int, int] = {}
    app = create_app(*scripted_model(TWO_CALLS, ["It ", "is ", "5."]), name="m", max_tokens=60)
    with TestClient(app, raise_server_exceptions=False) as client, ThreadPoolExecutor(4) as pool:

        def send(number: int) -> tuple[str, bytes, int, str]:
            draw = random.Random(number)
            path = draw.choice(list(BODIES))
            body = body_of(draw, path)
            response = client.post(path, content=body, headers={"Content-Type": "application/json"})
            if response.status_code == 200 and "error" in response.text[:2000] and '"server_error"' in response.text:
                return path, body, 500, response.text
            return path, body, response.status_code, response.text

        for begin in range(0, count, 100):
            for path, body, status, text in pool.map(send, range(begin, min(begin + 100, count))):
                assert status < 500, (path, body, text)
                statuses[status] = statuses.get(status, 0) + 1
            known = {"messages": [{"role": "user", "content": "?"}], "temperature": 0, "tools": [ADD]}
            assert (
                client.post("/v1/chat/completions", json=known).json()["choices"][0]["message"]["content"] == "I add."
            )
    return statuses


def test_random_requests():
    statuses = check_requests(150)
    assert {200, 400} <= set(statuses)


@pytest.mark.slow
def test_ten_thousand_random_requests():
    statuses = check_requests(10_000)
    assert statuses[200] > 1000
    assert statuses[400] > 1000
