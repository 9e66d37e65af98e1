"""What `groundup export` writes, served by vLLM: the same greedy text over HTTP.

The module that `vllm serve` runs: the command itself looks for a package named vllm, which the build for CPUs is not.

GROUNDUP_VLLM_PYTHON names the python of an environment with vLLM.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from groundup.generate import GREEDY, stream_text
from groundup.model.serialization import save_model
from groundup.quantize import export_model

sys.path.insert(0, str(Path(__file__).parent))
from engine_models import float_model

PYTHON = os.environ.get("GROUNDUP_VLLM_PYTHON")
PROMPTS = ("the quick brown", "1 2 3")
START_SECONDS = 300

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not PYTHON, reason="GROUNDUP_VLLM_PYTHON is not set")]


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vllm serve does not answer (exit code {server.poll()})")


def test_the_same_greedy_text(tmp_path: Path):
    made = float_model("llama")
    assert made is not None
    model, tokenizer = made
    expected = ["".join(stream_text(model, tokenizer, each, sampling=GREEDY, max_tokens=12)) for each in PROMPTS]  # type: ignore[arg-type]
    save_model(model, tmp_path / "source")
    tokenizer.save(tmp_path / "source")
    export_model(tmp_path / "source", tmp_path / "exported", format="huggingface")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", tmp_path / "exported", "--port", str(port),
        "--served-model-name", "m", "--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "2",
    ]  # fmt: skip
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    environment.pop("PYTHONPATH", None)
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        asked = {"model": "m", "temperature": 0, "max_tokens": 12, "ignore_eos": True}
        found = [post(f"http://127.0.0.1:{port}/v1/completions", asked | {"prompt": each}) for each in PROMPTS]
    finally:
        server.terminate()
        server.wait(60)
    assert [each["choices"][0]["text"] for each in found] == expected
