"""OpenAI API: responses, streams and errors."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from groundup.generate import GREEDY, PromptLookup, SamplingParams, encode_prompt, generate_reference
from groundup.generate.beam_search import best_beams
from groundup.generate.paged_kv_cache import page_bytes
from groundup.model import Decoder
from groundup.serve import create_app, prompt_scores, served_model
from groundup.serve.response_format import json_bytes
from groundup.tokenizer.bytes_to_unicode import to_unicode

GREEDILY = {"temperature": 0}


def events(response) -> list[dict]:
    """The objects of a well-formed event stream that ends with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *objects, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in objects]


def complete(client, **fields):
    return client.post("/v1/completions", json={"prompt": "hello", **fields})


def converse(client, **fields):
    return client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}], **fields})


@pytest.fixture(scope="module")
def reference(model, tokenizer):
    """The reference loop's answer to a prompt."""

    def answer(prompt_ids, max_tokens, sampling=GREEDY) -> str:
        tokens = generate_reference(
            model, prompt_ids, max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids
        )
        return tokenizer.decode([t for t in tokens if t < tokenizer.vocab_size], skip_special_tokens=True)

    return answer


# ---- what is fields and what comes back


def test_completion_equals_reference(client, model, tokenizer, reference):
    body = complete(client, max_tokens=20, **GREEDILY).json()
    (choice,) = body["choices"]
    assert choice["text"] == reference(encode_prompt(model, tokenizer, "hello"), 20)
    assert choice["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"


def test_chat_equals_reference_and_stream(client, tokenizer, reference):
    prompt = tokenizer.render_chat([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    wanted = reference(prompt, 30)
    body = converse(client, max_tokens=30, **GREEDILY).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": wanted}
    assert body["object"] == "chat.completion"

    chunks = events(converse(client, max_tokens=30, stream=True, stream_options={"include_usage": True}, **GREEDILY))
    *parts, last = chunks
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == wanted
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [
        body["choices"][0]["finish_reason"]
    ]
    assert last["choices"] == []
    assert last["usage"] == body["usage"]
    assert {part["usage"] for part in parts} == {None}
    assert "usage" not in events(converse(client, max_tokens=1, stream=True))[0]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_completion_stream(client):
    whole = complete(client, max_tokens=30, **GREEDILY).json()["choices"][0]
    parts = [event["choices"][0] for event in events(complete(client, max_tokens=30, stream=True, **GREEDILY))]
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert len(parts) > 5


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client, stream):
    text = complete(client, max_tokens=40, **GREEDILY).json()["choices"][0]["text"]
    stop = text[12:15]
    response = complete(client, max_tokens=40, stop=["never there", stop], stream=stream, **GREEDILY)
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == text[: text.index(stop)]
    assert choices[-1]["finish_reason"] == "stop"


def test_several_prompts(client):
    prompts = ["one", "two", "three", "one"]
    body = complete(client, prompt=prompts, max_tokens=10, **GREEDILY).json()
    alone = [complete(client, prompt=p, max_tokens=10, **GREEDILY).json()["choices"][0]["text"] for p in prompts]
    assert [choice["text"] for choice in body["choices"]] == alone
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["completion_tokens"] == 40
    streamed = ["", "", "", ""]
    for event in events(complete(client, prompt=prompts, max_tokens=10, stream=True, **GREEDILY)):
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert streamed == alone


def test_prompt_of_token_ids_and_empty_prompt(client, tokenizer):
    text = complete(client, **GREEDILY).json()["choices"][0]["text"]
    ids = tokenizer.encode("hello")
    assert complete(client, prompt=ids, **GREEDILY).json()["choices"][0]["text"] == text
    assert complete(client, prompt=[ids, ids], **GREEDILY).json()["choices"][1]["text"] == text
    assert complete(client, prompt="", **GREEDILY).json()["usage"]["prompt_tokens"] == 1


def test_sampling_parameters_and_seed(client, model, tokenizer, reference):
    knobs = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 7}
    text = complete(client, max_tokens=20, **knobs).json()["choices"][0]["text"]
    assert text == reference(encode_prompt(model, tokenizer, "hello"), 20, SamplingParams(**knobs))
    assert text != complete(client, max_tokens=20, **knobs | {"seed": 8}).json()["choices"][0]["text"]
    assert complete(client, seed=-5).status_code == 200


def test_penalties_bias_and_stop_tokens(client, model, tokenizer, reference):
    ids = encode_prompt(model, tokenizer, "hello")
    knobs = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "typical_p": 0.9, "seed": 3}
    text = complete(client, max_tokens=20, logit_bias={"100": 2.5}, **knobs).json()["choices"][0]["text"]
    assert text == reference(ids, 20, SamplingParams(logit_bias={100: 2.5}, **knobs))
    greedy = complete(client, max_tokens=20, logprobs=0, **GREEDILY).json()["choices"][0]
    first = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    stopped = complete(client, max_tokens=20, stop_token_ids=[first], **GREEDILY).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("", "stop")
    late = complete(client, max_tokens=20, stop_token_ids=[first], min_tokens=5, **GREEDILY).json()
    assert late["usage"]["completion_tokens"] >= 5
    assert greedy["finish_reason"] == "length"


def test_several_choices(client):
    body = converse(client, n=3, seed=5, max_tokens=12).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert body["usage"]["prompt_tokens"] == converse(client, max_tokens=1).json()["usage"]["prompt_tokens"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    for number, text in enumerate(texts):
        alone = converse(client, seed=5 + number, max_tokens=12).json()["choices"][0]["message"]["content"]
        assert text == alone
    two = complete(client, prompt=["a", "b"], n=2, seed=5, max_tokens=6).json()["choices"]
    assert [choice["text"] for choice in two[2:]] == [
        complete(client, prompt="b", seed=seed, max_tokens=6).json()["choices"][0]["text"] for seed in (5, 6)
    ]
    refused(complete(client, prompt=["a"] * 40, n=2), 400, param="n")


def test_context_length_limits_the_answer(client):
    body = complete(client, prompt="x" * 250, max_tokens=10**12, **GREEDILY).json()
    assert body["usage"]["completion_tokens"] == 6
    assert body["choices"][0]["finish_reason"] == "length"


def test_server_limits_the_answer(model, tokenizer):
    client = TestClient(create_app(model, tokenizer, name="tiny", max_tokens=4))
    assert complete(client, max_tokens=100).json()["usage"]["completion_tokens"] <= 4


def test_logprobs(client, model, tokenizer):
    choice = complete(client, max_tokens=5, logprobs=3, **GREEDILY).json()["choices"][0]
    told = choice["logprobs"]
    with torch.inference_mode():
        wanted = model(torch.tensor([tokenizer.encode("hello")])).logits[0, -1].log_softmax(-1).max()
    assert told["token_logprobs"][0] == pytest.approx(float(wanted), abs=1e-4)
    assert all(len(best) <= 3 for best in told["top_logprobs"])
    assert len(told["tokens"]) == len(told["text_offset"]) == 5

    choice = converse(client, max_tokens=5, logprobs=True, top_logprobs=2, **GREEDILY).json()["choices"][0]
    for entry in choice["logprobs"]["content"]:
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]
        assert len(entry["top_logprobs"]) == 2
    assert converse(client).json()["choices"][0]["logprobs"] is None


def test_logprobs_of_parts_of_characters(client, tokenizer):
    """Byte tokens: each carries its own byte, and their texts lie where their character does."""
    parts = [bytes([byte]) for byte in "\u6771".encode()]
    for token, content in ((tokenizer.token_id(to_unicode(part)), part) for part in parts):
        told = converse(client, max_tokens=1, logit_bias={str(token): 100}, logprobs=True, top_logprobs=20, **GREEDILY)
        entry = told.json()["choices"][0]["logprobs"]["content"][0]
        assert entry["bytes"] == list(content)
        assert entry["token"] == f"\\x{content.hex()}"
        assert len({tuple(top["bytes"]) for top in entry["top_logprobs"]}) == 20


def test_logprobs_end_before_a_stop_string(client):
    whole = complete(client, max_tokens=30, logprobs=1, **GREEDILY).json()["choices"][0]
    text, offsets = whole["text"], whole["logprobs"]["text_offset"]
    stop = text[7:9]
    cut = text.index(stop)
    stopped = complete(client, max_tokens=30, logprobs=1, stop=stop, **GREEDILY).json()["choices"][0]
    assert stopped["text"] == text[:cut]
    assert stopped["logprobs"]["text_offset"] == [offset for offset in offsets if offset < cut]
    told = []
    for event in events(complete(client, max_tokens=30, logprobs=1, stop=stop, stream=True, **GREEDILY)):
        told += (event["choices"][0]["logprobs"] or {"tokens": []})["tokens"]
    assert told == stopped["logprobs"]["tokens"]


def test_echo_and_logprobs_of_the_prompt(client, model, tokenizer):
    ids = tokenizer.encode("hello")
    scores = model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)
    (alone,) = complete(client, max_tokens=0, echo=True, logprobs=2).json()["choices"]
    told = alone["logprobs"]
    assert (alone["text"], alone["finish_reason"]) == ("hello", "length")
    assert told["tokens"] == [*"hello"]
    assert told["token_logprobs"][0] is None
    assert told["token_logprobs"][1:] == pytest.approx(
        scores[torch.arange(4), torch.tensor(ids[1:])].tolist(), abs=1e-4
    )
    assert all(len(top) == 2 for top in told["top_logprobs"][1:])
    body = complete(client, max_tokens=5, echo=True, logprobs=0, **GREEDILY).json()
    (plain,) = complete(client, max_tokens=5, logprobs=0, **GREEDILY).json()["choices"]
    (both,) = body["choices"]
    assert both["text"] == "hello" + plain["text"]
    assert both["logprobs"]["token_logprobs"] == told["token_logprobs"] + plain["logprobs"]["token_logprobs"]
    assert both["logprobs"]["text_offset"][5:] == [5 + offset for offset in plain["logprobs"]["text_offset"]]
    assert body["usage"]["completion_tokens"] == 5
    streamed = events(complete(client, max_tokens=5, echo=True, stream=True, **GREEDILY))
    assert "".join(part["choices"][0]["text"] for part in streamed) == both["text"]


def test_echoed_prompts_are_decoded_once_and_outside_of_the_event_loop(client, monkeypatch):
    decode, threads = prompt_scores.echoed_prompt, []

    def record(*arguments, **options):
        threads.append(asyncio._get_running_loop())
        return decode(*arguments, **options)

    monkeypatch.setattr(prompt_scores, "echoed_prompt", record)
    choices = complete(client, prompt="x" * 200, n=3, echo=True, max_tokens=1, logprobs=1).json()["choices"]
    assert [choice["text"][:200] for choice in choices] == ["x" * 200] * 3
    assert threads == [None]
    monkeypatch.setattr(prompt_scores, "MAX_LOGPROBS", 1000)
    refused(complete(client, prompt="x" * 200, n=3, echo=True, max_tokens=1, logprobs=1), 400, param="logprobs")
    assert complete(client, prompt="x" * 200, n=3, echo=True, max_tokens=1).status_code == 200


def test_responses_are_written_as_json(client):
    response = {"a": [{"b": 0.1}, {"c": "\u6771"}], "d": {"e": [1, None]}, 'f"': "g", "h": []}
    assert json_bytes(response) == JSONResponse(response).body
    with pytest.raises(ValueError, match="Out of range"):
        json_bytes({"a": [float("nan")]})


def test_best_of_returns_the_most_likely(client):
    fields = {"max_tokens": 6, "seed": 3, "temperature": 1.5, "prompt": ["hello", "you"]}
    every = complete(client, n=4, logprobs=0, **fields).json()["choices"]
    body = complete(client, n=2, best_of=4, **fields).json()
    for prompt in range(2):
        candidates = every[4 * prompt : 4 * prompt + 4]
        ranked = sorted(candidates, key=lambda each: -sum(each["logprobs"]["token_logprobs"]) / 6)
        assert [each["text"] for each in body["choices"][2 * prompt : 2 * prompt + 2]] == [
            each["text"] for each in ranked[:2]
        ]
    assert [each["index"] for each in body["choices"]] == [0, 1, 2, 3]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 48


def test_a_faulty_request_does_not_disturb_the_others(model, tokenizer):
    """Logits that are no numbers, of one row."""
    network, bad = Decoder(model.config.model_copy(update={"tie_embeddings": False})).eval(), tokenizer.encode("~")[0]
    with torch.no_grad():
        network.embedding.tokens.weight[bad] = torch.nan
    with TestClient(create_app(network, tokenizer, name="tiny")) as client, ThreadPoolExecutor(8) as pool:
        fields = {"max_tokens": 20, "logit_bias": {str(bad): -100}}
        answers = list(pool.map(lambda text: complete(client, prompt=text, **fields), "ab~cd~ef"))
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200, 500, 200, 200]
    refused(answers[2], 500, "invalid_logits")


@pytest.mark.parametrize("form", [{"regex": "a{1000}{1000}"}, {"grammar": "start: " + " | ".join(["/a/"] * 3000)}])
def test_a_grammar_that_is_too_complex_is_the_fault_of_the_request(client, form):
    refused(complete(client, structured_outputs=form, temperature=0), 400, "no_token_fits")


def test_a_prompt_that_does_not_fit_the_cache_disturbs_nobody(model, tokenizer):
    with (
        TestClient(create_app(model, tokenizer, name="tiny", cache_memory=20_000)) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        answers = list(
            pool.map(lambda size: complete(client, prompt="x" * size, max_tokens=10), [3, 4, 200, 5, 200, 6])
        )
    assert [answer.status_code for answer in answers] == [200, 200, 400, 200, 400, 200]
    assert "cache" in refused(answers[2], 400, "context_length_exceeded")


def test_content_parts_and_developer_role(client):
    parts = [{"role": "developer", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    plain = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    texts = [converse(client, messages=m, max_tokens=8, **GREEDILY).json() for m in (parts, plain)]
    assert texts[0]["choices"] == texts[1]["choices"]


def test_models(client):
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "tiny"
    assert card["context_length"] == 256
    assert card["chat"] is True
    assert client.get("/v1/models/tiny").json() == card
    assert client.get("/v1/models/other").status_code == 404


def test_neutral_and_default_fields_are_ignored(client):
    neutral = {
        "n": 1,
        "top_logprobs": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "new": None,
        "grammar": "",
    }
    assert converse(client, max_tokens=1, **neutral).status_code == 200


def test_unknown_fields_are_refused(client):
    message = refused(converse(client, tempratur=0.5), 400, "unknown_field", "tempratur")
    assert message == "unknown field 'tempratur'; is temperature meant?"
    refused(complete(client, messages=[]), 400, "unknown_field", "messages")
    refused(complete(client, stream=True, stream_options={"usage": True}), 400, "unknown_field", "usage")


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * 5}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{}] * 5}]}),
        ("/v1/completions", {"prompt": [[-1] * 5]}),
        ("/v1/embeddings", {"input": [-1] * 5}),
        ("/tokenize", {"messages": [{}] * 5}),
        ("/detokenize", {"tokens": [-1] * 5}),
    ],
)
def test_only_the_first_wrong_element_is_reported(client, address, body):
    """A megabyte of them would be a million messages."""
    message = refused(client.post(address, json=body), 400)
    assert "[0]" in message
    assert "[1]" not in message


# ---- what is refused


def refused(response, status: int, code: str | None = None, param: str | None = None) -> str:
    """The message of an error response in OpenAI's format."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code
    assert param is None or error["param"] == param
    return error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"260": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"typical_p": 0}, "typical_p"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"grammar": "root ::= 'a'"}, "grammar"),
        ({"structured_outputs": {"grammar": ""}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": " \n"}}, "structured_outputs"),
        ({"continue_final_message": True}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}], "continue_final_message": True},
            "messages",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}]},
            "messages",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}
                ]
            },
            "messages",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_errors_name_the_invalid_field(client, fields, param):
    refused(converse(client, **fields), 400, param=param)


@pytest.mark.parametrize("prompt", [None, [], [[]], [-1], [260], [1.5], ["a", 1], [["a"]], {"a": 1}, ["x"] * 65])
def test_invalid_prompts(client, prompt):
    refused(complete(client, prompt=prompt), 400, param="prompt")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nothing", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000, b"NaN", b"[]", b"7"],
)
def test_invalid_json(client, body):
    response = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert "the request is not" in refused(response, 400)


def test_prompt_longer_than_the_context(client):
    assert "256" in refused(complete(client, prompt="x" * 256), 400, "context_length_exceeded")
    long = [{"role": "user", "content": "x" * 300}]
    refused(converse(client, messages=long), 400, "context_length_exceeded")


def test_unknown_model(client):
    assert "'tiny'" in refused(complete(client, model="gpt-5"), 404, "model_not_found", "model")


def test_request_size_limit(client):
    refused(complete(client, prompt="x" * 2_000_000), 413, "body_too_large")

    def endless():
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"x" * 50_000

    response = client.post("/v1/completions", content=endless(), headers={"Content-Type": "application/json"})
    refused(response, 413, "body_too_large")


def test_unsupported_content_types(client):
    """Browsers send text/plain to other sites without a CORS preflight."""
    response = client.post("/v1/completions", content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    refused(response, 415)


def test_unknown_paths_and_methods(client):
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/chat.py"), 404)
    refused(client.get("/..%2fapp.py"), 404)
    assert client.get("/v1/completions").headers["allow"] == "POST"
    refused(client.get("/v1/completions"), 405)


def test_chat_without_chat_template(model, base_tokenizer):
    client = TestClient(create_app(model, base_tokenizer, name="base"))
    assert "/v1/completions" in refused(converse(client), 400, "no_chat_template")
    assert complete(client).status_code == 200
    assert client.get("/v1/models").json()["data"][0]["chat"] is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    *("prompt", "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k"),
    *("min_p", "repetition_penalty", "seed", "stop", "stream", "stream_options", "n", "logprobs"),
    *("top_logprobs", "logit_bias", "tools", "response_format"),
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]) | JSON, "content": JSON}),
    max_size=4,
)
BODIES = st.builds(
    lambda base, more: base | more,
    st.fixed_dictionaries({}, optional={"prompt": JSON, "messages": MESSAGES, "max_tokens": st.integers(-1, 9)}),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES | JSON, address=st.sampled_from(["/v1/completions", "/v1/chat/completions"]))
@example(body={"prompt": "x", "temperature": 1e-300, "max_tokens": 3}, address="/v1/completions")
@example(body={"prompt": "\x00<|endoftext|>", "stop": "\x00"}, address="/v1/completions")
def test_no_json_body_causes_a_server_error(client, body, address):
    text = json.dumps(body)
    response = client.post(address, content=text, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        refused(response, response.status_code)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60))
def test_no_bytes_cause_a_server_error(client, body):
    response = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


def test_proposed_tokens_change_no_answer(model, tokenizer, client):
    """Speculative decoding: texts, log-probabilities and stop strings as without, and what was accepted is counted."""
    bodies = [
        {"prompt": "abcabcabc", "max_tokens": 40, "temperature": 0, "logprobs": 1, "frequency_penalty": -2.0},
        {"prompt": ["x", "the the the"], "n": 2, "seed": 4, "max_tokens": 30, "stop": "e"},
    ]
    with TestClient(create_app(model, tokenizer, name="tiny", proposer=PromptLookup())) as speculative:
        for body in bodies:
            found, expected = (each.post("/v1/completions", json=body).json() for each in (speculative, client))
            assert [each["text"] for each in found["choices"]] == [each["text"] for each in expected["choices"]]
            assert found["usage"] == expected["usage"]
            for one, other in zip(found["choices"], expected["choices"], strict=True):
                if one["logprobs"] is not None:
                    logprobs = [each["logprobs"]["token_logprobs"] for each in (one, other)]
                    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
        counts = dict(line.split() for line in speculative.get("/metrics").text.splitlines() if line[0] != "#")
        assert 0 < int(counts["groundup_accepted_tokens_total"]) <= int(counts["groundup_proposed_tokens_total"])


def test_log_probabilities_of_prompts(client, model, tokenizer):
    """Those of the model, with ranks; the same as of an echo; in completions and chats."""
    choice = complete(client, prompt="ab\u20ac", max_tokens=1, prompt_logprobs=2, echo=True, logprobs=1).json()[
        "choices"
    ][0]
    ids = tokenizer.encode("ab\u20ac")
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
    first, *others = choice["prompt_logprobs"]
    assert first is None
    for place, entry in enumerate(others):
        own = entry[str(ids[place + 1])]
        assert own["logprob"] == pytest.approx(float(logprobs[place, ids[place + 1]]), abs=1e-4)
        assert own["rank"] == 1 + int((logprobs[place] > logprobs[place, ids[place + 1]]).sum())
        best = {str(id) for id in logprobs[place].topk(2).indices.tolist()}
        assert set(entry) == best | {str(ids[place + 1])}
        assert own["decoded_token"] == choice["logprobs"]["tokens"][place + 1]
    assert [len(each) for each in choice["logprobs"]["top_logprobs"][1:]] == [1] * len(ids)
    body = converse(client, max_tokens=1, prompt_logprobs=0).json()
    assert [len(each) for each in body["prompt_logprobs"][1:]] == [1] * (body["usage"]["prompt_tokens"] - 1)
    refused(complete(client, prompt_logprobs=1, stream=True), 400, param="prompt_logprobs")


def test_log_probabilities_of_one_response_are_limited(client, monkeypatch):
    """They are many objects: 64 long answers with 20 each would fill the memory."""
    monkeypatch.setattr(served_model, "MAX_LOGPROBS", 600)
    refused(complete(client, n=2, logprobs=2, max_tokens=101), 400, param="logprobs")
    assert complete(client, n=2, logprobs=2, max_tokens=3).status_code == 200
    body = converse(client, n=2, logprobs=True, top_logprobs=9, min_tokens=200, **GREEDILY).json()  # as many as fit
    assert body["usage"]["completion_tokens"] == 60


def test_beam_search(client, model, tokenizer):
    expected = best_beams(model, tokenizer.encode("ab"), num_beams=4, max_tokens=8, stop_ids=tokenizer.stop_ids)
    body = complete(client, prompt="ab", use_beam_search=True, n=2, max_tokens=8).json()
    assert [each["text"] for each in body["choices"]] == [tokenizer.decode(beam.tokens) for beam in expected[:2]]
    assert body["usage"]["completion_tokens"] == sum(len(beam.tokens) for beam in expected[:2])
    wide = complete(client, prompt="ab", use_beam_search=True, best_of=7, max_tokens=8, length_penalty=2.0).json()
    options = {"num_beams": 7, "max_tokens": 8, "length_penalty": 2.0, "stop_ids": tokenizer.stop_ids}
    assert wide["choices"][0]["text"] == tokenizer.decode(
        best_beams(model, tokenizer.encode("ab"), **options)[0].tokens
    )
    refused(complete(client, use_beam_search=True, stream=True), 400, param="stream")
    refused(complete(client, use_beam_search=True, temperature=0.5), 400, param="temperature")
    refused(complete(client, use_beam_search=True, best_of=17), 400, param="best_of")
    refused(complete(client, length_penalty=2.0), 400, param="length_penalty")
    assert complete(client, length_penalty=1.0, max_tokens=1).status_code == 200  # what a search would have, too
    neutral = {"temperature": 0, "top_p": 1, "top_k": -1, "repetition_penalty": 1.0}
    assert (
        complete(client, prompt="ab", use_beam_search=True, n=2, max_tokens=8, **neutral).json()["choices"]
        == (body["choices"])
    )
    refused(complete(client, use_beam_search=True, prompt="x" * 300), 400)


def test_beam_search_within_the_memory_of_the_cache(model, tokenizer):
    """All beams together have as many tokens as the cache, of two pages here; searches run one after the other."""
    memory = 2 * page_bytes(model.config, model.cache_type, torch.float32)
    with TestClient(create_app(model, tokenizer, name="tiny", cache_memory=memory)) as client:
        asked = {"prompt": "ab", "use_beam_search": True, "best_of": 4, "max_tokens": 50, "ignore_eos": True}
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: complete(client, **asked).json(), range(2)))
        assert answers[0]["choices"] == answers[1]["choices"]
        assert [answer["usage"]["completion_tokens"] for answer in answers] == [32 // 4 - 2] * 2
        assert "4 beams" in refused(complete(client, **asked | {"prompt": "abcdefgh"}), 400)


def test_trace(client, model, tokenizer, tracer):
    text = "ohne 東京 it was the best of times and the worst of it"
    refused(client.post("/trace", json={"text": text}), 404)
    assert client.get("/v1/models").json()["data"][0]["trace"] is False
    key = {"Authorization": "Bearer secret"}
    with TestClient(create_app(model, tokenizer, name="tiny", tracer=tracer, api_key="secret")) as tracing:
        assert tracing.post("/trace", json={"text": text}).status_code == 401
        assert tracing.get("/v1/models", headers=key).json()["data"][0]["trace"] is True
        found = tracing.post("/trace", json={"text": text}, headers=key).json()
        (span,) = found["spans"]
        assert text[span["begin"] : span["end"]].strip() == "it was the best of times and the worst of"
        assert (span["count"], span["documents"][0]["source"]) == (2, "<i>books</i>")
        refused(tracing.post("/trace", json={"text": "a" * 20_001}, headers=key), 400, param="text")
        lone = tracing.post(
            "/trace", content=b'{"text": "\\ud800"}', headers=key | {"content-type": "application/json"}
        )
        refused(lone, 400)
        refused(tracing.post("/trace", json={"text": ""}, headers=key), 400, param="text")
