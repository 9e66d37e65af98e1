"""Who may use the server, how much, and what is logged of it."""

import io
import json
import os

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.serve import create_app
from groundup.serve.api_keys import ApiKeys
from groundup.serve.rate_limits import RateLimits
from groundup.serve.request_log import RequestLog

ASK = {"prompt": "four", "max_tokens": 6, "temperature": 0}


@pytest.fixture
def client_with(model, tokenizer):
    def build(**options):
        return TestClient(create_app(model, tokenizer, name="tiny", **options))

    return build


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def write_keys(path, text: str, second: int) -> None:
    path.write_text(text)
    os.utime(path, (second, second))  # equal sizes within a clock tick


def test_keys_of_a_file_are_rotated_without_a_restart(client_with, tmp_path):
    path = tmp_path / "keys"
    write_keys(path, "# keys\nann  first-key\n\nsecond-key # no name\n", 1)
    client = client_with(api_key=ApiKeys(["given"], path))

    def status(key: str) -> int:
        return client.get("/v1/models", headers=bearer(key)).status_code

    assert [status(key) for key in ("given", "first-key", "second-key", "ann", "ann first-key", "")] == [200] * 3 + [
        401
    ] * 3
    write_keys(path, "ann  third--key\n", 2)
    assert [status(key) for key in ("given", "first-key", "second-key", "third--key")] == [200, 401, 401, 200]
    path.unlink()
    assert status("third--key") == 200  # while it is being replaced
    write_keys(path, "", 3)
    assert [status("third--key"), status("given")] == [401, 200]


def test_a_key_may_contain_the_sign_of_comments(tmp_path):
    path = tmp_path / "keys"
    path.write_text("ann se#cret # hers\n#old-key\n")
    keys = ApiKeys(file=path)
    assert [keys.client_of(key) for key in (b"se#cret", b"se", b"#old-key", b"hers")] == ["ann", None, None, None]


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_key_in_the_environment_is_no_open_server(monkeypatch, tmp_path, value):
    monkeypatch.setenv("GROUNDUP_API_KEY", value)
    done = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "GROUNDUP_API_KEY is empty" in done.exception.message


def test_wrong_key_files(tmp_path):
    for content, message in (
        (None, "No such file"),
        (b"", "no API key"),
        (b"# none\n", "no API key"),
        (b"\xff", "not UTF-8"),
    ):
        path = tmp_path / "keys"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            ApiKeys(file=path)


def test_requests_a_minute(client_with):
    now = [0.0]
    limits = RateLimits(requests_per_minute=2, clock=lambda: now[0])
    client = client_with(api_key=ApiKeys(["a", "b"]), limits=limits)

    def ask(key="a"):
        return client.post("/v1/completions", json=ASK, headers=bearer(key))

    first = ask()
    assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "1")
    assert ask().status_code == 200
    refused = ask()
    assert refused.status_code == 429
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("30", "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert ask("b").status_code == 200  # another client
    assert client.get("/v1/models", headers=bearer("a")).status_code == 200
    now[0] = 30.0
    assert [ask().status_code, ask().status_code] == [200, 429]


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_a_minute(client_with, stream):
    """Prompts and answers count; a request that is over the limit is answered, and the next ones wait for it."""
    now = [0.0]
    client = client_with(limits=RateLimits(tokens_per_minute=6, clock=lambda: now[0]))
    assert client.post("/v1/completions", json=ASK | {"stream": stream}).status_code == 200  # 4 + 6 tokens
    refused = client.post("/v1/completions", json=ASK)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "50")  # from -4 to 1 at 6 a minute
    now[0] = 50.0
    assert client.post("/v1/embeddings", json={"input": "four"}).status_code == 200
    assert client.post("/v1/embeddings", json={"input": "four"}).status_code == 429


def test_memory_of_clients_is_bounded(monkeypatch):
    monkeypatch.setattr("groundup.serve.rate_limits.MAX_CLIENTS", 10)
    limits = RateLimits(requests_per_minute=1, clock=lambda: 0.0)
    limits.admit("busy")
    for number in range(100):
        limits.charge(f"idle {number}", 0)
    assert len(limits._allowances) <= 10
    assert limits._allowances["busy"]["requests"].level == 0


def test_cors_for_listed_sites_only(client_with):
    client = client_with(cors_origins=["https://app.example"], api_key="k")
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False), ("null", False)):
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        preflight = client.options("/v1/completions", headers=asked)
        answer = client.post("/v1/completions", json=ASK, headers=bearer("k") | {"Origin": origin})
        for response in (preflight, answer):
            assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert preflight.status_code == (200 if allowed else 400)
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "app.example", "https://app.example/path", "https://a@b", ""])
def test_wrong_origins(client_with, origin):
    with pytest.raises(UserError, match="origin"):
        client_with(cors_origins=[origin])


def test_log_of_requests(client_with):
    sink = io.StringIO()
    client = client_with(log=RequestLog("json", sink=sink), api_key=ApiKeys(["secret-key"]))
    headers = bearer("secret-key")
    response = client.post(
        "/v1/completions", json=ASK | {"prompt": "private"}, headers=headers | {"X-Request-Id": "mine-1"}
    )
    assert response.headers["x-request-id"] == "mine-1"
    client.post("/v1/completions", json=ASK | {"stream": True}, headers=headers | {"X-Request-Id": b'a"\n b'})
    client.get("/v1/models")
    first, second, third = map(json.loads, sink.getvalue().splitlines())
    assert {"id": "mine-1", "path": "/v1/completions", "status": 200, "model": "tiny", "prompt_tokens": 7,
            "completion_tokens": 6, "finish_reasons": ["length"]}.items() <= first.items()  # fmt: skip
    assert first["client"].startswith("key-")
    assert second["id"].startswith("req-")
    assert second["completion_tokens"] == 6
    assert (third["status"], third["client"]) == (401, "testclient")
    for private in ("private", "secret-key", response.json()["choices"][0]["text"]):
        assert private not in sink.getvalue()


@pytest.mark.parametrize("style", ["json", "text"])
def test_clients_write_no_lines_and_no_terminal_commands(client_with, style):
    sink = io.StringIO()
    client_with(log=RequestLog(style, sink=sink)).get("/%C2%9B2J%E2%80%A8%C2%85%0A%1B%7F?a%0Ab")
    (line,) = sink.getvalue().splitlines()
    assert line.isascii()
    assert line.replace("\x7f", "").isprintable()


def test_log_of_prompts(client_with):
    sink = io.StringIO()
    client = client_with(log=RequestLog("text", prompts=True, sink=sink))
    answer = client.post("/v1/completions", json=ASK | {"prompt": "line\nbreak"}).json()["choices"][0]["text"]
    (line,) = sink.getvalue().splitlines()
    assert json.dumps([answer]) in line
    assert "line\\\\nbreak" in line
