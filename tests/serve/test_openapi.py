"""The OpenAPI description: complete, and true of what is sent."""

import json
import re

import jsonschema
import pytest
from scripted_model import scripted_model
from starlette.testclient import TestClient
from test_agents import ADD, TWO_CALLS

from groundup.serve import create_app
from groundup.serve.openapi import description_page

MESSAGES = [{"role": "user", "content": "hello"}]
ASKED = {
    "/v1/chat/completions": {
        "messages": MESSAGES,
        "logprobs": True,
        "top_logprobs": 1,
        "tools": [ADD],
        "temperature": 0,
    },
    "/v1/completions": {"prompt": "hello", "logprobs": 1, "max_tokens": 3},
    "/v1/responses": {"input": "hello", "tools": [{"type": "function", **ADD["function"]}], "temperature": 0},
    "/v1/embeddings": {"input": ["a", "b"]},
    "/tokenize": {"prompt": "hello", "return_token_strs": True},
    "/detokenize": {"tokens": [5, 6]},
    "/trace": {"text": "It was the best of times and the worst."},
}


@pytest.fixture(scope="module")
def agent(tracer):
    with TestClient(create_app(*scripted_model(TWO_CALLS), name="m", tracer=tracer)) as client:
        yield client


@pytest.fixture(scope="module")
def description(agent):
    return agent.get("/openapi.json").json()


def check(value, name: str, description) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_path_is_described(agent, description):
    routes = {route.path.replace(":path", "") for route in agent.app.routes}
    page = {path for path in routes if path in ("/", "/docs") or re.search(r"\.(js|css|svg|html)$", path)}
    assert routes - page == set(description["paths"])


@pytest.mark.parametrize("path", ASKED)
def test_requests_and_responses_fit_their_schemas(agent, description, path):
    operation = description["paths"][path]["post"]
    content = operation["requestBody"]["content"]["application/json"]["schema"]
    check(ASKED[path], content["$ref"].rpartition("/")[2], description)
    response = agent.post(path, json=ASKED[path])
    assert response.status_code == 200, response.text
    kinds = operation["responses"]["200"]["content"]
    check(response.json(), kinds["application/json"]["schema"]["$ref"].rpartition("/")[2], description)
    check(agent.post(path, json={}).json(), "Error", description)
    if "text/event-stream" in kinds:
        (event,) = re.findall(r"is a (\w+)", kinds["text/event-stream"]["schema"]["description"])
        stream = agent.post(path, json=ASKED[path] | {"stream": True}).text
        data = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
        assert len(data) > 2
        for each in data:
            check(each, event, description)


@pytest.mark.parametrize(("path", "more"), [
    ("/v1/completions", {"prompt_logprobs": 2}),
    ("/v1/completions", {"echo": True}),
    ("/v1/chat/completions", {"prompt_logprobs": 0}),
])  # fmt: skip
def test_log_probabilities_of_prompts_are_described(agent, description, path, more):
    answer = agent.post(path, json=ASKED[path] | more).json()
    check(answer, "Chat" if "chat" in path else "Completion", description)
    described = description["components"]["schemas"]["Chat" if "chat" in path else "Completion"]
    if "prompt_logprobs" in more:
        assert {*answer, *answer["choices"][0]} <= {
            *described["properties"], *described["properties"]["choices"]["items"]["properties"],
        }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/models", "ModelList"), ("/v1/models/m", "Model"), ("/health", "Health")]
)
def test_other_responses_fit_their_schemas(agent, description, path, name):
    check(agent.get(path).json(), name, description)


def test_unknown_fields_do_not_fit(agent, description):
    with pytest.raises(jsonschema.ValidationError):
        check({"messages": MESSAGES, "tempratur": 1}, "ChatRequest", description)
    check({"messages": MESSAGES, "user": "me"}, "ChatRequest", description)


def test_keys_in_the_description(model, tokenizer):
    client = TestClient(create_app(model, tokenizer, name="tiny", api_key="k"))
    described = client.get("/openapi.json").json()
    assert described["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert described["paths"]["/health"]["get"]["security"] == []


def test_page(agent, description):
    page = agent.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script|https?://|style=", page.text)
    assert "<code>temperature</code></td><td>number (at least 0, at most 2) or null" in page.text
    hostile = json.loads(json.dumps(description).replace("One model", "<img src=x>"))
    assert "<img" not in description_page(hostile)
