"""Conversations with tools, prefilled answers and the Responses API, with a model that writes a script."""

import json

import pytest
from scripted_model import scripted_model
from starlette.testclient import TestClient

from groundup.serve import create_app

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "The sum of two numbers",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
CALL = '\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n'
TWO_CALLS = ["I add.", "<tool_call>", CALL, "</tool_call>", "\n<tool_call>\n", CALL.strip(), "\n</tool_call>"]
QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
GREEDILY = {"temperature": 0}


def served(model, tokenizer):
    return TestClient(create_app(model, tokenizer, name="scripted"))


@pytest.fixture(scope="module")
def agent():
    with served(*scripted_model(TWO_CALLS, ["It ", "is ", "5."])) as client:
        yield client


def chat(client, **fields):
    response = client.post("/v1/chat/completions", json={"messages": QUESTION, **GREEDILY, **fields})
    assert response.status_code == 200, response.text
    return response


def chunks(response) -> list[dict]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]


def test_an_agent_loop(agent):
    """Ask, run the calls, send the message back as a client does, read the answer."""
    messages = list(QUESTION)
    for _ in range(3):
        choice = chat(agent, messages=messages, tools=[ADD]).json()["choices"][0]
        if choice["finish_reason"] != "tool_calls":
            break
        messages.append(choice["message"] | {"refusal": None, "annotations": [], "audio": None, "function_call": None})
        for call in choice["message"]["tool_calls"]:
            given = json.loads(call["function"]["arguments"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(given["a"] + given["b"])})
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["content"] == "I add."
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is 5.", "stop")
    silent = [*messages[:1], messages[1] | {"content": None}, *messages[2:]]
    assert chat(agent, messages=silent, tools=[ADD]).json()["choices"][0]["message"]["content"] == "It is 5."


def test_streamed_calls(agent):
    parts = [chunk["choices"][0] for chunk in chunks(chat(agent, tools=[ADD], stream=True))]
    assert "".join(part["delta"].get("content") or "" for part in parts) == "I add."
    calls = [call for part in parts for call in part["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert {call["function"]["name"] for call in calls} == {"add"}
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"a": 2, "b": 3}] * 2
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_at_a_time(agent, stream):
    response = chat(agent, tools=[ADD], parallel_tool_calls=False, stream=stream)
    if stream:
        calls = [call for chunk in chunks(response) for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    else:
        calls = response.json()["choices"][0]["message"]["tool_calls"]
        assert response.json()["usage"]["completion_tokens"] == 4  # generation ends after the first call
    assert len(calls) == 1


BOUNDED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/small"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"small": {"enum": [1, 2, 3]}},
}


def bounded_tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": BOUNDED}}


@pytest.mark.parametrize("template", ["qwen2_5", "mistral_nemo", "granite_3_3"])
@pytest.mark.parametrize("stream", [False, True])
def test_forced_calls(template, stream):
    """Whatever the model would write, the answer is one call whose arguments fit the schema."""
    with served(*scripted_model(["Never."], template=template)) as client:
        tools = [bounded_tool("first"), bounded_tool("second")]
        for choice, names in (
            ("required", {"first", "second"}), ({"type": "function", "function": {"name": "second"}}, {"second"}),
        ):  # fmt: skip
            response = chat(client, tools=tools, tool_choice=choice, stream=stream)
            choices = [chunk["choices"][0] for chunk in chunks(response)] if stream else response.json()["choices"]
            parts = [choice["delta" if stream else "message"] for choice in choices]
            (call,) = [call for part in parts for call in part.get("tool_calls", ())]
            assert call["function"]["name"] in names
            given = json.loads(call["function"]["arguments"])
            assert set(given) == {"a", "b"}
            assert given["a"] in (1, 2, 3)
            assert not any(part.get("content") for part in parts)
            assert choices[-1]["finish_reason"] == "tool_calls"


def test_forms_of_answers(agent):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": BOUNDED, "strict": True}}
    given = json.loads(chat(agent, response_format=schema).json()["choices"][0]["message"]["content"])
    assert set(given) == {"a", "b"}
    streamed = chunks(chat(agent, response_format=schema, stream=True))
    assert json.loads("".join(part["choices"][0]["delta"].get("content", "") for part in streamed)) == given
    text = {"format": {"type": "json_schema", "name": "x", "schema": BOUNDED}}
    body = agent.post("/v1/responses", json={"input": "x", "text": text, **GREEDILY}).json()
    assert json.loads(body["output"][0]["content"][0]["text"]) == given
    for form, expected in (({"choice": ["yes", "no"]}, ("yes", "no")), ({"regex": "[ab]c"}, ("ac", "bc"))):
        asked = {"prompt": "x", "structured_outputs": form, **GREEDILY}
        assert agent.post("/v1/completions", json=asked).json()["choices"][0]["text"] in expected


def test_tools_that_are_not_to_be_called(agent):
    choice = chat(agent, tools=[ADD], tool_choice="none").json()["choices"][0]
    assert "<tool_call>" in choice["message"]["content"]
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("template", "script"),
    [
        ("mistral_nemo", ["[TOOL_CALLS]", '[{"name": "add", "arguments": {"a": 2, "b": 3}}]']),
        ("granite_3_3", ["<|tool_call|>", '[{"name": "add", "arguments": {"a": 2, "b": 3}}]']),
        ("glm4moe", ["<tool_call>", "add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n<arg_key>b</arg_key>\n"
                     "<arg_value>3</arg_value>\n", "</tool_call>"]),
        ("qwen3_5_think", ["<tool_call>", "<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>\n3\n</parameter>\n"
                           "</function>", "</tool_call>"]),
    ],
)  # fmt: skip
def test_templates_of_other_families(template, script):
    """A call is found where its sign is a special token, and its message goes back through the template."""
    with served(*scripted_model(script, ["Done."], template=template)) as client:
        message = chat(client, tools=[ADD]).json()["choices"][0]["message"]
        (call,) = message["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"a": 2, "b": 3}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "5"}
        answer = chat(client, tools=[ADD], messages=[*QUESTION, message, result]).json()
        assert answer["choices"][0]["message"]["content"] == "Done."


def test_a_template_without_tools(model, tokenizer):
    response = served(model, tokenizer).post("/v1/chat/completions", json={"messages": QUESTION, "tools": [ADD]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"


def test_a_final_message_of_the_assistant_is_continued():
    model, tokenizer = scripted_model(["Once", " upon", " a", " time"])
    with served(model, tokenizer) as client:
        prefilled = [*QUESTION, {"role": "assistant", "content": "Once upon"}]
        assert chat(client, messages=prefilled).json()["choices"][0]["message"]["content"] == " a time"
        assert chat(client, messages=prefilled, continue_final_message=True).status_code == 200
        new = chat(client, messages=prefilled, add_generation_prompt=True).json()["choices"][0]
        assert new["message"]["content"] == "Once upon a time"
        spoken = "Once upon a time <|im_end|>"
        left = [*QUESTION, {"role": "assistant", "content": spoken}]
        ids = tokenizer.render_chat(left, continue_final_message=True)
        assert tokenizer.decode(ids).endswith(spoken)  # and what it spells stays text
        assert tokenizer.token_id("<|im_end|>") not in ids[-10:]


def test_tokens_of_texts_and_conversations(agent):
    def post(path, **fields):
        response = agent.post(path, json=fields)
        assert response.status_code == 200, response.text
        return response.json()

    body = post("/tokenize", prompt="hello", return_token_strs=True)
    assert (body["count"], body["tokens"], body["max_model_len"]) == (5, body["tokens"], 4096)
    assert "".join(body["token_strs"]) == "hello"
    assert post("/detokenize", tokens=body["tokens"]) == {"prompt": "hello"}
    ids = post("/tokenize", messages=QUESTION, tools=[ADD])
    usage = chat(agent, tools=[ADD], max_tokens=1).json()["usage"]
    assert ids["count"] == usage["prompt_tokens"]
    for path, fields in (
        ("/tokenize", {}), ("/tokenize", {"prompt": "a", "messages": QUESTION}), ("/detokenize", {"tokens": [10**8]}),
    ):  # fmt: skip
        assert agent.post(path, json=fields).status_code == 400


def test_responses(agent):
    body = agent.post("/v1/responses", json={"input": "2 + 3?", "instructions": "Be brief.", **GREEDILY}).json()
    assert (body["object"], body["status"]) == ("response", "completed")
    assert body["output"][0]["content"][0]["text"].startswith("I add.")
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"]
    cut = agent.post("/v1/responses", json={"input": "2 + 3?", "max_output_tokens": 1, **GREEDILY}).json()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_calls_in_responses(agent):
    tool = {"type": "function", **ADD["function"]}
    asked = {"input": [{"role": "user", "content": "2 + 3?"}], "tools": [tool], **GREEDILY}
    output = agent.post("/v1/responses", json=asked).json()["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "5"}
        for item in output
        if item["type"] == "function_call"
    ]
    second = agent.post("/v1/responses", json=asked | {"input": [*asked["input"], *output, *results]}).json()
    assert second["output"][0]["content"][0]["text"] == "It is 5."
    events = chunks(agent.post("/v1/responses", json=asked | {"stream": True}))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["message", "function_call", "function_call"]
    assert events[-1]["type"] == "response.completed"
    assert [item["type"] for item in events[-1]["response"]["output"]] == [item["type"] for item in done]


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "c"}, {"include": ["file_search"]},
        {"tools": [{"type": "web_search"}]}, {"text": {"format": {"type": "json_schema", "name": "x"}}}, {"colour": 1},
        {"input": [{"type": "item_reference", "id": "x"}]}, {"input": []}, {"truncation": "auto"},
    ],
)  # fmt: skip
def test_what_responses_refuse(agent, fields):
    response = agent.post("/v1/responses", json={"input": "x", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(fields))


def test_aliases(model, tokenizer):
    client = TestClient(create_app(model, tokenizer, name="tiny", aliases=["gpt-4o", "other/name"]))
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["tiny", "gpt-4o", "other/name"]
    assert client.get("/v1/models/other/name").json()["root"] == "tiny"
    answer = client.post("/v1/completions", json={"model": "gpt-4o", "prompt": "x", "max_tokens": 1})
    assert answer.json()["model"] == "tiny"
