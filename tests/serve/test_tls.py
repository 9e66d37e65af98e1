"""HTTPS with a certificate that the test makes."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.serve.server import _tls_context

SERVER = Path(__file__).with_name("tiny_server.py")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost -keyout"
    )
    subprocess.run([*command.split(), key, "-out", chain], check=True, capture_output=True)
    return chain, key


def test_completions_over_https(certificate):
    """A client that checks the certificate is answered; one that speaks HTTP disturbs nobody; SIGTERM ends it with 0."""
    chain, _ = certificate
    environment = os.environ | {"GROUNDUP_TEST_CERTIFICATE": " ".join(map(str, certificate))}
    environment["GROUNDUP_TEST_LIMITS"] = "5 30 4"
    process = subprocess.Popen([sys.executable, SERVER], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "https://127.0.0.1:" in line, line + process.stderr.read()
        port = int(line.split("https://127.0.0.1:")[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain, contextlib.suppress(OSError):
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in plain.recv(1000)
        context = ssl.create_default_context(cafile=str(chain))
        with contextlib.closing(
            http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
        ) as connection:
            for stream in (False, True):
                body = json.dumps({"prompt": "hi", "max_tokens": 5, "ignore_eos": True, "stream": stream})
                connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
                assert response.status == 200
                assert (b"[DONE]" in content) is stream
        with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(("127.0.0.1", port)) as raw:
            ssl.create_default_context().wrap_socket(raw, server_hostname="localhost")
        # connections that never begin a handshake: those over the limit are closed at once, the others after the time of a header
        silent = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(8)]
        for each in silent:
            with each, contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1]
    assert "Traceback" not in rest
    assert process.returncode == 0


def test_wrong_certificates(certificate, tmp_path):
    chain, key = certificate
    other = tmp_path / "other.pem"
    for pair, message in (
        ((chain, other), "no such file"),
        ((chain, chain), "no start line|pem lib"),
        ((key, key), "pem lib|start line"),
    ):
        with pytest.raises(UserError, match=message):
            _tls_context(*pair)
    _tls_context(chain, key)
