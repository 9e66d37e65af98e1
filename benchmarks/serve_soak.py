"""A server under mixed load: are the answers right, all pages free and the memory flat at the end?

    python benchmarks/serve_soak.py --minutes 10 [--clients 12] [--save] [MODEL]

Clients ask for whole and streamed answers, hang up, stop reading, send half a header, nonsense, long prompts and lists of
prompts. Exit code 1 if a status is 5xx (but 503, which says that the server is full), a greedy answer differs from the first
one, pages stay in use, or the resident memory grows by more than a tenth after the first fifth of the time.
"""

import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from dated_results import saved_output

PROMPTS = ("a", "the quick brown fox", "1 2 3 4", "Once upon a time", "x" * 150, "\u6771\u4eac")
JSON = {"Content-Type": "application/json"}


def serve_model(path: str | None) -> None:
    """Serve a model on any free port, in this process."""
    import torch

    import groundup
    from groundup.serve import serve
    from groundup.tokenizer.tokenizer_training import train_bpe

    if path is not None:
        return serve(*groundup.open_model(path), name="m", port=0)
    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = groundup.ModelConfig(vocab_size=260, hidden_size=64, num_layers=2, num_heads=4, context_length=512)
    model = groundup.Decoder(config).eval()
    with torch.no_grad():  # bigger weights, so that the likeliest token depends on all of the text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return serve(model, train_bpe([], 260), name="m", port=0)


class Load:
    """Clients of one server, each a thread that sends requests of random kinds."""

    def __init__(self, port: int, process_id: int):
        self.port, self.process_id = port, process_id
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self.expected = {prompt: self._answer(prompt) for prompt in PROMPTS}

    def run(self, clients: int, end: float) -> None:
        threads = [threading.Thread(target=self._client, args=(number, end)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check_answers(self) -> None:
        for prompt, text in self.expected.items():
            if self._answer(prompt) != text:
                self.wrong.append(prompt)

    def resident_memory(self) -> int:
        """In bytes."""
        lines = Path(f"/proc/{self.process_id}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

    def gauge(self, name: str) -> float:
        lines = self._request("GET", "/metrics", None)[1].decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"groundup_{name} ")).split()[1])

    def _client(self, number: int, end: float) -> None:
        draw = random.Random(number)
        kinds = (
            self._whole,
            self._streamed,
            self._abandoned,
            self._stalled,
            self._half_header,
            self._nonsense,
            self._many,
        )
        while time.monotonic() < end:
            kind = draw.choices(kinds, weights=(8, 6, 3, 1, 1, 3, 1))[0]
            try:
                self.statuses[kind.__name__.strip("_"), kind(draw)] += 1
            except OSError:
                self.statuses[kind.__name__.strip("_"), 0] += 1

    def _whole(self, draw: random.Random) -> int:
        prompt = draw.choice(PROMPTS)
        status, body = self._request("POST", "/v1/completions", self._asked(prompt))
        if status == 200 and json.loads(body)["choices"][0]["text"] != self.expected[prompt]:
            self.wrong.append(prompt)
        return status

    def _streamed(self, draw: random.Random) -> int:
        prompt = draw.choice(PROMPTS)
        status, body = self._request("POST", "/v1/completions", self._asked(prompt) | {"stream": True})
        lines = [line for line in body.splitlines() if line.startswith(b"data: {")]
        text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)
        if status == 200 and text != self.expected[prompt]:
            self.wrong.append(prompt)
        return status

    def _abandoned(self, draw: random.Random) -> int:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(self._head({"prompt": "x" * draw.randint(1, 300), "max_tokens": 200, "stream": True}))
            connection.recv(draw.randint(1, 2000))
        return 0

    def _stalled(self, draw: random.Random) -> int:
        """The client does not read."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.sendall(self._head({"prompt": "x", "max_tokens": 400, "stream": True, "logprobs": 20}))
            time.sleep(draw.random() * 3)
        return 0

    def _half_header(self, draw: random.Random) -> int:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: local")
            time.sleep(draw.random() * 2)
        return 0

    def _nonsense(self, draw: random.Random) -> int:
        bodies = (
            b"{",
            b"\xff" * 100,
            b"[]",
            b'{"prompt": 7}',
            b'{"prompt": "x", "temperature": 1e300}',
            b"x" * 2_000_000,
        )
        return self._request("POST", "/v1/completions", draw.choice(bodies))[0]

    def _many(self, draw: random.Random) -> int:
        asked = {"prompt": ["x" * draw.randint(1, 400) for _ in range(8)], "max_tokens": 30, "n": 2, "seed": 1}
        return self._request("POST", "/v1/completions", asked)[0]

    def _asked(self, prompt: str) -> dict:
        return {"prompt": prompt, "max_tokens": 40, "temperature": 0}

    def _answer(self, prompt: str) -> str:
        return json.loads(self._request("POST", "/v1/completions", self._asked(prompt))[1])["choices"][0]["text"]

    def _head(self, body: dict) -> bytes:
        content = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def _request(self, method: str, path: str, body: dict | bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, JSON)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--save", action="store_true", help="write the results to benchmarks/results")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_model(given.model)
        return 0
    with saved_output("serve-soak", "A server under mixed load", save=given.save):
        return run(given)


def run(given: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--serve", *([given.model] if given.model else [])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        load = Load(int(process.stderr.readline().split("127.0.0.1:")[1].split("/")[0]), process.pid)
        begin, seconds = time.monotonic(), given.minutes * 60
        load.run(given.clients, begin + seconds / 5)
        early = load.resident_memory()
        load.run(given.clients, begin + seconds)
        while load.gauge("requests_running") or load.gauge("requests_waiting"):
            time.sleep(0.2)
        load.check_answers()
        pages, late = load.gauge("cache_pages_used"), load.resident_memory()
    finally:
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    print(f"{given.minutes:g} minutes, {given.clients} clients")
    for (kind, status), count in sorted(load.statuses.items()):
        print(f"{kind:<12} {status or 'closed'}  {count:,}")
    print(
        f"memory {early / 1e6:.0f} MB after a fifth of the time, {late / 1e6:.0f} MB at the end; pages in use {pages:.0f}"
    )
    print(f"wrong answers {len(load.wrong)}; exit code of the server {process.returncode}")
    failed = [status for _, status in load.statuses if status >= 500 and status != 503]
    bad = failed or load.wrong or pages or late > 1.1 * early or process.returncode or "Traceback" in errors
    print(errors, end="", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
