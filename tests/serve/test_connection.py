"""Clients that stall, vanish or come in crowds, and the end of the server, on a real socket."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("tiny_server.py")


@contextlib.contextmanager
def server(limits: str = ""):
    """A server process and its port."""
    environment = os.environ | {"GROUNDUP_TEST_LIMITS": limits}
    process = subprocess.Popen([sys.executable, SERVER], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, int(line.split("http://127.0.0.1:")[1].split("/")[0])
    finally:
        process.kill()
        process.communicate()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def request(body: dict) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_idle_and_crowding_clients():
    with server("1 1 20") as (_, port):
        idle = [connect(port) for _ in range(10)]
        half = [connect(port) for _ in range(10)]
        for each in half:
            each.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        with connect(port) as one_too_many:
            head, _, body = read_all(one_too_many).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert json.loads(body)["error"]["code"] == "overloaded"
        for each in (*idle, *half):
            assert read_all(each) == b""  # closed by the server
            each.close()
        with connect(port) as served:
            served.sendall(request({"prompt": "hi", "max_tokens": 2}))
            assert served.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_server(number):
    """A running answer ends; an idle and a stalled client do not keep the process; nothing is printed."""
    with server() as (process, port), connect(port) as idle, connect(port) as kept:
        kept.sendall(request({"prompt": "hi", "max_tokens": 1}))
        assert kept.recv(15) == b"HTTP/1.1 200 OK"
        with connect(port) as running:
            running.sendall(request({"prompt": "x", "max_tokens": 60, "temperature": 0, "stream": True}))
            seen = running.recv(100)
            process.send_signal(number)
            seen += read_all(running)
        assert b'"finish_reason":"length"' in seen
        assert b"data: [DONE]" in seen
        rest = process.communicate(timeout=30)[1]
        assert process.returncode == 0
        assert rest == ""
        assert idle.recv(1) == b""
