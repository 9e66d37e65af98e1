"""The official OpenAI client against the application."""

from typing import Literal

import pytest
from pydantic import BaseModel
from scripted_model import scripted_model
from starlette.testclient import TestClient
from test_agents import ADD, TWO_CALLS

from groundup.generate import embed_texts
from groundup.serve import create_app

openai = pytest.importorskip("openai")

MESSAGES = [{"role": "user", "content": "hello"}]
ASKED = {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}


def openai_client(model, tokenizer):
    app = create_app(model, tokenizer, name="m", api_key="key")
    return openai.OpenAI(base_url="http://testserver/v1", api_key="key", max_retries=0, http_client=TestClient(app))


@pytest.fixture(scope="module")
def client(model, tokenizer):
    with openai_client(model, tokenizer) as client:
        yield client


@pytest.fixture(scope="module")
def agent():
    with openai_client(*scripted_model(TWO_CALLS, ["It ", "is ", "5."])) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").owned_by == "groundup"


def test_chat_and_stream(client):
    whole = client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=2)
    parts = [*client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})]
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    assert len(whole.choices[0].logprobs.content) == 20
    assert whole._request_id


def test_stream_helper(agent):
    with agent.chat.completions.stream(**ASKED) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert text == final.choices[0].message.content


def test_completions(client):
    text = client.completions.create(model="m", prompt=["a", "b"], max_tokens=5, logprobs=2)
    assert len(text.choices) == 2
    parts = [*client.completions.create(model="m", prompt="a", max_tokens=5, stream=True)]
    assert parts[-1].choices[0].finish_reason == "length"


def test_errors(client, model, tokenizer):
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="m", prompt="x" * 500)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_embeddings(client, model, tokenizer):
    """The client asks for base64 by itself."""
    data = client.embeddings.create(model="m", input=["one", "two"]).data
    expected = embed_texts(model, tokenizer, ["one", "two"])
    assert data[1].embedding == pytest.approx(expected[1].tolist(), abs=1e-6)
    floats = client.embeddings.create(model="m", input="one", encoding_format="float", dimensions=4).data
    assert len(floats[0].embedding) == 4


class Add(BaseModel):
    """The sum of two numbers."""

    a: int
    b: int


def test_tools(agent):
    asked = {"model": "m", "messages": MESSAGES, "temperature": 0}
    message = agent.chat.completions.create(**asked, tools=[ADD]).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["add", "add"]
    tool = openai.pydantic_function_tool(Add, name="add")
    calls = agent.chat.completions.parse(**asked, tools=[tool]).choices[0].message.tool_calls
    assert calls[0].function.parsed_arguments == Add(a=2, b=3)
    with agent.chat.completions.stream(**asked, tools=[tool]) as stream:
        events = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.parsed_arguments for event in events] == [Add(a=2, b=3)] * 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": "5"} for call in calls]
    history = [*MESSAGES, message.model_dump(), *results]  # as agents send it back, with every null
    answer = agent.chat.completions.create(**asked | {"messages": history}, tools=[ADD])
    assert answer.choices[0].message.content == "It is 5."


def test_responses(agent):
    tool = {"type": "function", **ADD["function"], "strict": True}
    response = agent.responses.create(model="m", input="2 + 3?", tools=[tool], temperature=0)
    assert response.output_text == "I add."
    call = response.output[1]
    assert (call.type, call.name) == ("function_call", "add")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    second = agent.responses.create(
        model="m", input=[{"role": "user", "content": "2 + 3?"}, *response.output, result], tools=[tool], temperature=0
    )
    assert second.output_text == "It is 5."
    assert second.usage.output_tokens == 3
    with agent.responses.stream(model="m", input="2 + 3?", tools=[tool], temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "I add."
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]


class Weather(BaseModel):
    place: Literal["Rome", "Oslo"]
    sunny: bool


def test_parse(client):
    asked = {"model": "m", "messages": MESSAGES, "temperature": 0}
    parsed = client.chat.completions.parse(**asked, response_format=Weather).choices[0].message.parsed
    assert parsed.place in ("Rome", "Oslo")
    with client.chat.completions.stream(**asked, response_format=Weather) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    assert client.responses.parse(model="m", input="hello", temperature=0, text_format=Weather).output_parsed
