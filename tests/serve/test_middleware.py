"""Middleware: API key, trusted hosts, security headers, metrics."""

import re

import pytest
from starlette.testclient import TestClient

from groundup.artifacts.errors import UserError
from groundup.serve import create_app
from groundup.serve.page_files import PAGE_FILES

KEY = "schlüssel-1"
BEARER = {"Authorization": f"Bearer {KEY}".encode()}
ASK = {"prompt": "x", "max_tokens": 2}


@pytest.fixture
def locked(model, tokenizer):
    with TestClient(create_app(model, tokenizer, name="tiny", api_key=KEY)) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/metrics", "/v1/completions", "/nothing"])
def test_paths_that_require_the_key(locked, path):
    response = locked.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert locked.get(path, headers=BEARER).status_code != 401


@pytest.mark.parametrize("path", ["/", "/chat.css", "/chat.js", "/icon.svg", "/vendor/marked/marked.esm.js", "/health"])
def test_public_paths(locked, path):
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, "Bearer \xff"]
)
def test_wrong_keys(locked, sent):
    response = locked.post("/v1/completions", json=ASK, headers={"Authorization": sent.encode()})
    assert response.status_code == 401


def test_right_key(locked):
    assert locked.post("/v1/completions", json=ASK, headers=BEARER).status_code == 200


@pytest.mark.parametrize("key", ["", "  "])
def test_empty_key_is_refused(model, tokenizer, key):
    with pytest.raises(UserError, match="empty"):
        create_app(model, tokenizer, name="tiny", api_key=key)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("[::1]:8000", 200), ("[::1]", 200), ("192.168.1.7:8000", 200),
     ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example:8000", 421), ("", 421)],
)  # fmt: skip
def test_trusted_hosts(model, tokenizer, host, status):
    client = TestClient(create_app(model, tokenizer, name="tiny", hosts=["localhost"]))
    assert client.get("/v1/models", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("path", ["/", "/chat.js", "/v1/models", "/nothing", "/metrics"])
def test_security_headers(client, path):
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "require-trusted-types-for 'script'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] in ("no-store", "no-cache")
    assert "access-control-allow-origin" not in headers


def test_no_cors(client):
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = client.options("/v1/completions", headers=preflight)
    assert response.status_code == 405
    assert not any(name.startswith("access-control") for name in response.headers)


def test_page_loads_no_external_resources(client):
    """No script, style or event handler in the HTML, nothing from elsewhere, and no text ever becomes HTML."""
    html = client.get("/").text
    assert not re.search(r"\son\w+=|style=|<style|<script(?![^>]*src=)", html)
    assert set(re.findall(r'(?:src|href)="([^"#][^"]*)"', html)) == {"/icon.svg", "/chat.css", "/chat.js"}
    for path in (path for path in PAGE_FILES if not path.startswith("/vendor")):
        text = client.get(path).text
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|unsafe|url\(|@import", text
        )
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}


def test_metrics(model, tokenizer):
    with TestClient(create_app(model, tokenizer, name="tiny")) as client:
        client.post("/v1/completions", json={"prompt": "four", "max_tokens": 6, "temperature": 0})
        client.post("/v1/completions", json={})
        client.get("/invented/by/a/stranger")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert lines['groundup_requests_total{endpoint="/v1/completions",status="200"}'] == "1"
    assert lines['groundup_requests_total{endpoint="/v1/completions",status="400"}'] == "1"
    assert lines['groundup_requests_total{endpoint="other",status="404"}'] == "1"
    assert lines["groundup_prompt_tokens_total"] == "4"
    assert lines["groundup_generated_tokens_total"] == "6"
    assert lines["groundup_requests_running"] == lines["groundup_requests_waiting"] == "0"
    assert lines["groundup_request_seconds_count"] == "2"
    assert lines['groundup_first_token_seconds_bucket{le="+Inf"}'] == "1"
    for line in response.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+', line), line
