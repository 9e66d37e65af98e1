"""The server of an encoder and of an encoder-decoder, and embeddings of every model."""

import base64
import struct

import pytest
import torch
from starlette.testclient import TestClient

from groundup.generate import (
    GREEDY,
    decode_output,
    embed_texts,
    encode_prompt,
    generate,
    generate_text,
    set_target_language,
)
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.serve import create_app
from groundup.serve.server import describe_offer
from groundup.tokenizer import Tokenizer

SHAPE = {"vocab_size": 260, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(1)
    return {
        kind: build_model(ModelConfig(architecture=kind, **SHAPE)).eval() for kind in ("encoder", "encoder_decoder")
    }


@pytest.fixture(scope="module")
def encoder(models, tokenizer):
    with TestClient(create_app(models["encoder"], tokenizer, name="e", api_key="k")) as client:
        client.headers["Authorization"] = "Bearer k"
        yield client


@pytest.fixture(scope="module")
def translator(models, tokenizer):
    with TestClient(create_app(models["encoder_decoder"], tokenizer, name="t")) as client:
        yield client


def embeddings(client, status=200, **fields):
    response = client.post("/v1/embeddings", json=fields)
    assert response.status_code == status, response.text
    return response.json()


def test_embeddings_equal_the_library(encoder, models, tokenizer):
    texts = ["one text", "another, longer text"]
    body = embeddings(encoder, input=texts, model="e")
    assert (body["object"], body["model"]) == ("list", "e")
    assert body["usage"] == {"prompt_tokens": 28, "total_tokens": 28}
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    expected = embed_texts(models["encoder"], tokenizer, texts)
    torch.testing.assert_close(torch.tensor([entry["embedding"] for entry in body["data"]]), expected)
    ids = [tokenizer.encode(text) for text in texts]
    assert embeddings(encoder, input=ids)["data"] == body["data"]
    assert embeddings(encoder, input=ids[0])["data"][0]["embedding"] == pytest.approx(expected[0].tolist(), abs=1e-6)


def test_base64_and_dimensions(encoder):
    plain = embeddings(encoder, input="one text", dimensions=8)["data"][0]["embedding"]
    packed = embeddings(encoder, input="one text", dimensions=8, encoding_format="base64")["data"][0]["embedding"]
    assert list(struct.unpack("<8f", base64.b64decode(packed))) == plain
    whole = embeddings(encoder, input="one text")["data"][0]["embedding"]
    norm = sum(x * x for x in whole[:8]) ** 0.5
    assert plain == pytest.approx([x / norm for x in whole[:8]], abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 400, "input: Field required"),
        ({"input": ""}, 400, "input: "),
        ({"input": []}, 400, "input: "),
        ({"input": ["a", ""]}, 400, "input: [1]: String should have at least 1 character"),
        ({"input": [999]}, 400, "token id 999, expected 0 to 259"),
        ({"input": "x" * 65}, 400, "the prompt has 65 tokens, expected at most 64"),
        ({"input": "x", "dimensions": 33}, 400, "dimensions = 33, expected at most 32"),
        ({"input": "x", "encoding_format": "int8"}, 400, "encoding_format: "),
        ({"input": "x", "model": "other"}, 404, "unknown model 'other'"),
    ],
)
def test_wrong_requests_are_refused(encoder, fields, status, message):
    assert message in embeddings(encoder, status, **fields)["error"]["message"]


def test_embeddings_need_the_key(encoder):
    assert encoder.post("/v1/embeddings", json={"input": "x"}, headers={"Authorization": ""}).status_code == 401


def test_an_encoder_writes_nothing(encoder):
    (card,) = encoder.get("/v1/models").json()["data"]
    assert (card["architecture"], card["chat"]) == ("encoder", False)
    messages = [{"role": "user", "content": "hi"}]
    for path, fields in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", {"messages": messages})):
        response = encoder.post(path, json=fields)
        assert response.status_code == 400
        assert "an encoder, which embeds texts" in response.json()["error"]["message"]


def test_an_encoder_decoder_answers_completions(translator, models, tokenizer):
    body = translator.post("/v1/completions", json={"prompt": ["one", "a longer text"], "max_tokens": 12}).json()
    texts = [
        generate_text(models["encoder_decoder"], tokenizer, text, sampling=GREEDY, max_tokens=12)
        for text in ("one", "a longer text")
    ]
    assert [choice["text"] for choice in body["choices"]] == texts
    assert translator.get("/v1/models").json()["data"][0]["chat"] is False
    response = translator.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    assert response.status_code == 400
    assert "an encoder-decoder, which turns one text into another" in response.json()["error"]["message"]
    assert len(embeddings(translator, input="x")["data"][0]["embedding"]) == 32


def test_the_first_line_of_a_server_says_what_it_is_for(models, model, tokenizer, base_tokenizer):
    assert describe_offer(models["encoder"], tokenizer, "URL") == "an encoder, embeddings at URL/v1/embeddings"
    assert describe_offer(model, tokenizer, "URL").startswith("chat page URL/")
    for writer, words in ((model, base_tokenizer), (models["encoder_decoder"], tokenizer)):
        assert describe_offer(writer, words, "URL").startswith("page for completions URL/")


def test_translations_begin_with_the_language_of_the_request(tokenizer):
    torch.manual_seed(0)
    words = Tokenizer(tokenizer.backend.__class__.from_str(tokenizer.backend.to_str()), eos=tokenizer.eos)
    words.backend.add_special_tokens(["fra_Latn", "deu_Latn"])
    model = build_model(ModelConfig(**SHAPE | {"vocab_size": 264}, architecture="encoder_decoder")).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5) if weight.dim() > 1 else weight.fill_(1.0)
    source, found = encode_prompt(model, words, "hello"), {}
    with TestClient(create_app(model, words, name="t")) as client:
        for more in ({}, {"use_beam_search": True, "best_of": 1}):
            for language in ("fra_Latn", "deu_Latn"):
                body = {"prompt": "hello", "max_tokens": 5, "target_language": language, **more}
                choice = client.post("/v1/completions", json=body).json()["choices"][0]
                found.setdefault(language, []).append(choice["text"])
        body = {"prompt": "hello", "max_tokens": 5, "target_language": "fra"}
        assert "the nearest: fra_Latn" in client.post("/v1/completions", json=body).json()["error"]["message"]
    assert found["fra_Latn"] != found["deu_Latn"]
    for language, texts in found.items():
        set_target_language(model, words, language)
        ids = generate(model, source, max_tokens=5, sampling=GREEDY, stop_ids=words.stop_ids)
        assert texts == [decode_output(words, ids)] * 2
