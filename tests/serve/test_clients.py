"""Clients and a tester of APIs in an environment of their own: GROUNDUP_CLIENTS_PYTHON, made by `make test-clients`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PYTHON = os.environ.get("GROUNDUP_CLIENTS_PYTHON")
SAID = 'I add.<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'

pytestmark = [pytest.mark.interop, pytest.mark.skipif(PYTHON is None, reason="GROUNDUP_CLIENTS_PYTHON is not set")]


@pytest.fixture
def address(request):
    command = [sys.executable, FOLDER / "scripted_server.py", request.param]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split("chat page ")[1].split("/ ")[0]
    finally:
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate(timeout=30)[1]


@pytest.mark.parametrize("address", ["secret"], indirect=True)
def test_client_programs(address):
    command = [str(PYTHON), FOLDER / "client_programs.py", f"{address}/v1", "secret"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["openai_program"] == {"model": "m", "streamed": SAID, "answers": [SAID] * 8}
    assert found["langchain_program"] == {
        "calls": [{"a": 2, "b": 3}], "answer": "It is 5.", "streamed": "I add.", "width": 64,
    }  # fmt: skip
    assert found["litellm_program"] == {"answer": SAID, "streamed": SAID, "tokens": 4, "width": 64}
    assert found["open_webui_calls"] == {"streamed": SAID, "status": 200}


@pytest.mark.parametrize("address", [""], indirect=True)
def test_requests_by_the_description(address, tmp_path):
    """Schemathesis: requests that fit the description and requests that do not; no 5xx, and answers as described.

    Not that every request of the right shape is accepted (positive_data_acceptance): fields exclude one another, such as
    stream and prompt_logprobs, and a model has no token 300, reasoning effort or target language. Those are refused with 400.
    """
    command = [
        Path(str(PYTHON)).with_name("st"), "run", f"{address}/openapi.json", "--max-examples", "50", "--no-color",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
