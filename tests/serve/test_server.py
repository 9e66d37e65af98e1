"""The server on a real socket: ports, addresses, streams."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.http_server import bind_socket
from groundup.serve.server import _check_networks

SERVER = Path(__file__).with_name("tiny_server.py")


@pytest.fixture(scope="module")
def server():
    """The port of a server process."""
    process = subprocess.Popen([sys.executable, SERVER], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield int(line.split("http://127.0.0.1:")[1].split("/")[0])
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=20)[1]
    assert "Traceback" not in rest
    assert process.returncode == 0


def post(port: int, body: dict) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


def get(port: int, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read().decode()


def gauge(port: int, name: str) -> int:
    lines = get(port, "/metrics", {})[2].splitlines()
    return int(next(line for line in lines if line.startswith(f"groundup_{name} ")).split()[1])


def test_answers_and_streams(server):
    asked = {"prompt": "hi", "max_tokens": 60, "temperature": 0}
    whole = json.loads(post(server, asked)[1])
    times, text = [], ""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server, timeout=20)) as connection:
        body = json.dumps(asked | {"stream": True})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                times.append(time.perf_counter())
                text += json.loads(line[6:])["choices"][0]["text"]
    assert text == whole["choices"][0]["text"]
    assert times[-1] - times[0] > 0.01  # not all at the end


def test_broken_connection_cancels_generation(server):
    before = gauge(server, "generated_tokens_total")
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", server))
        body = json.dumps({"prompt": "x", "max_tokens": 120, "stream": True}).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        connection.recv(100)
        connection.close()
    end = time.monotonic() + 20
    while gauge(server, "requests_running") or gauge(server, "requests_waiting"):
        assert time.monotonic() < end
    assert gauge(server, "generated_tokens_total") - before < 3 * 120


def test_untrusted_host(server):
    assert get(server, "/v1/models", {"Host": "evil.example"})[0] == 421


def test_no_server_header(server):
    assert "server" not in map(str.lower, get(server, "/", {})[1])


def test_invalid_http(server):
    for junk in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"x" * 200_000):
        with socket.create_connection(("127.0.0.1", server)) as connection, contextlib.suppress(OSError):
            connection.sendall(junk)
            connection.settimeout(1)
            connection.recv(1000)
    assert post(server, {"prompt": "hi", "max_tokens": 1})[0] == 200


def test_port_in_use(server):
    with pytest.raises(UserError, match="in use") as caught:
        bind_socket("127.0.0.1", server)
    assert "--port" in (caught.value.hint or "")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "not a host"])
def test_foreign_addresses(host):
    with pytest.raises(UserError) as caught:
        bind_socket(host, 0)
    assert host in caught.value.message


@pytest.mark.skipif(os.name != "posix" or not socket.has_ipv6, reason="needs IPv6")
def test_ipv6():
    with contextlib.suppress(UserError), bind_socket("::1", 0) as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize("trusted", [True, False])
def test_clients_behind_a_proxy(trusted):
    """X-Forwarded-For names the client where the proxy is trusted, and nobody elsewhere."""
    environment = os.environ | {"GROUNDUP_TEST_PROXY": "127.0.0.0/8" if trusted else "10.0.0.1"}
    process = subprocess.Popen([sys.executable, SERVER], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        port = int(process.stderr.readline().split("http://127.0.0.1:")[1].split("/")[0])
        assert get(port, "/health", {"X-Forwarded-For": "203.0.113.7"})[0] == 200
        client = json.loads(process.stderr.readline())["client"]
    finally:
        process.kill()
        process.communicate()
    assert client == ("203.0.113.7" if trusted else "127.0.0.1")


@pytest.mark.parametrize("address", ["*", "proxy.example", "10.0.0.1/8", ""])
def test_proxies_that_are_no_addresses(address):
    with pytest.raises(UserError, match="expected an address or a network"):
        _check_networks([address])
