"""Benchmark: `groundup serve` under load, beside vLLM's build for CPUs.

    GROUNDUP_VLLM_PYTHON=venv/bin/python python benchmarks/serve.py MODEL [--threads 1 2] [--clients 16] [--tokens 128] [--save]

MODEL is a Hugging Face folder in bfloat16, such as SmolLM2-135M. The interpreter named by GROUNDUP_VLLM_PYTHON has vLLM for CPUs;
without it, groundup runs alone. Each server is a process of its own with so many threads, and the clients are another.

- start: seconds from the start of the process to the end of its first answer, of one token.
- one stream: tokens a second of one client after another; the time to the first token, and from token to token.
- so many clients: the same, all at once, each with a prompt of its own; tokens a second of all together, and their ratio to
  one stream.
- engine: one stream without HTTP, in the same process as the model, and what HTTP costs: the difference as a share.
- a long prompt: the time to the first token of a prompt of 32 tokens, which arrives while one of 1,500 is read.
- memory: resident, after the load, less that before it.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from dated_results import processor, saved_output

PROMPT_TOKENS, LONG_PROMPT_TOKENS, SHORT_PROMPT_TOKENS = 64, 1500, 32


class Answer:
    """One streamed completion: when it was asked for, and when each token came."""

    def __init__(self, port: int, prompt: list[int], tokens: int):
        body = {
            "model": "served", "prompt": prompt, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0, "stream": True,
        }  # fmt: skip
        self.start = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read()[:500]!r}")
        self.times: list[float] = []
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                self.times.append(time.perf_counter())
        connection.close()

    @property
    def first(self) -> float:
        return self.times[0] - self.start

    @property
    def between(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def ask_together(port: int, prompts: list[list[int]], tokens: int, delay: float = 0.0) -> list[Answer]:
    """One client for each prompt, all at once, or `delay` seconds after one another."""
    answers: dict[int, Answer] = {}

    def ask(index: int) -> None:
        time.sleep(index * delay)
        answers[index] = Answer(port, prompts[index], tokens)

    clients = [threading.Thread(target=ask, args=(index,)) for index in range(len(prompts))]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return [answers[index] for index in range(len(prompts))]


@contextmanager
def server(by: str, model: Path, threads: int) -> Iterator[tuple[int, int, float]]:
    """A server as a process: its port, its id, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if by == "groundup":
        arguments = [sys.executable, "-m", "groundup.cli", "serve", str(model), "--name", "served", "--port", str(port)]
    else:
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, range(threads)))  # else it keeps a core for itself
        environment.pop("PYTHONPATH", None)
        options = [
            "--served-model-name",
            "served",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--max-model-len",
            "2048",
        ]
        arguments = [
            os.environ["GROUNDUP_VLLM_PYTHON"],
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(model),
        ]
        arguments += options
    start = time.perf_counter()
    log = subprocess.DEVNULL if "GROUNDUP_BENCHMARK_LOG" not in os.environ else None
    process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    try:
        while time.perf_counter() - start < 600:
            if process.poll() is not None:
                raise RuntimeError(f"{by} ended with {process.returncode}; GROUNDUP_BENCHMARK_LOG=1 shows why")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port, process.pid, start
    finally:
        process.terminate()
        process.wait()


def measure(by: str, model: Path, threads: int, clients: int, tokens: int) -> dict[str, float]:
    generator = random.Random(0)

    def prompts(count: int, length: int) -> list[list[int]]:
        """No two of them begin alike: shared prefixes are not measured."""
        return [[generator.randrange(1000, 40_000) for _ in range(length)] for _ in range(count)]

    with server(by, model, threads) as (port, pid, start):
        Answer(port, prompts(1, 8)[0], 1)
        found = {"start": time.perf_counter() - start}
        before = resident_bytes(pid)
        single = [Answer(port, prompt, tokens) for prompt in prompts(3, PROMPT_TOKENS)]
        found["one"] = tokens_per_second(single, one_after_another=True)
        found |= quantiles("one", single)
        together = ask_together(port, prompts(clients, PROMPT_TOKENS), tokens)
        found["many"] = tokens_per_second(together)
        found |= quantiles("many", together)
        long = prompts(1, LONG_PROMPT_TOKENS) + prompts(1, SHORT_PROMPT_TOKENS)
        found["short beside long"] = ask_together(port, long, 8, delay=0.05)[1].first
        found["memory"] = resident_bytes(pid) - before
    return found


def tokens_per_second(answers: list[Answer], one_after_another: bool = False) -> float:
    """Tokens after the first one of each answer, by the time for them; of answers together, from the first request to the end."""
    if one_after_another:
        return sum(len(each.between) for each in answers) / sum(sum(each.between) for each in answers)
    end = max(each.times[-1] for each in answers)
    return sum(len(each.times) for each in answers) / (end - min(each.start for each in answers))


def quantiles(name: str, answers: list[Answer]) -> dict[str, float]:
    firsts, between = [each.first for each in answers], [gap for each in answers for gap in each.between]
    found = {}
    for kind, values in (("first", firsts), ("between", between)):
        found[f"{name} {kind} p50"] = statistics.median(values)
        found[f"{name} {kind} p99"] = sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]
    return found


def run_engine(model: Path, tokens: int) -> float:
    """Tokens a second of the engine alone."""
    from groundup.generate import GREEDY, BatchingEngine, Request
    from groundup.quantize import open_model

    network, _ = open_model(model, "cpu", dtype="auto")
    engine = BatchingEngine(network)
    generator = random.Random(0)
    seconds = 0.0
    for _ in range(3):
        engine.submit(Request([generator.randrange(1000, 40_000) for _ in range(PROMPT_TOKENS)], tokens, GREEDY))
        engine.step()  # reads the prompt
        start = time.perf_counter()
        while engine.busy:
            engine.step()
        seconds += time.perf_counter() - start
    return 3 * (tokens - 1) / seconds


def resident_bytes(pid: int) -> int:
    """Of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return own + sum(resident_bytes(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--save", action="store_true", help="write the results to benchmarks/results")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(run_engine(options.model, options.tokens))
        return
    with saved_output("serve", "groundup serve beside vLLM", save=options.save):
        run(options)


def run(options: argparse.Namespace) -> None:
    print(
        f"{date.today()}, {processor()}, {options.model.name}, {options.clients} clients, {options.tokens} tokens each"
    )
    for threads in options.threads:
        for by in ("groundup", *(["vllm"] if "GROUNDUP_VLLM_PYTHON" in os.environ else [])):
            found = measure(by, options.model, threads, options.clients, options.tokens)
            if by == "groundup":
                found["engine"] = run_engine_apart(options.model, threads, options.tokens)
            print_row(f"{by}, {threads} threads", found, options.clients)


def run_engine_apart(model: Path, threads: int, tokens: int) -> float:
    command = [sys.executable, __file__, str(model), "--engine", "--tokens", str(tokens)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def print_row(name: str, found: dict[str, Any], clients: int) -> None:
    def ms(key: str) -> str:
        return f"{found[key + ' p50'] * 1e3:.0f} / {found[key + ' p99'] * 1e3:.0f} ms"

    print(f"\n{name}")
    print(f"  start to first answer   {found['start']:.1f} s")
    print(f"  one stream              {found['one']:.1f} tokens/s")
    print(f"    first token p50 / p99 {ms('one first')}, between tokens {ms('one between')}")
    print(
        f"  {clients} clients              {found['many']:.1f} tokens/s, {found['many'] / found['one']:.1f} times one stream"
    )
    print(f"    first token p50 / p99 {ms('many first')}, between tokens {ms('many between')}")
    print(f"  short beside long       first token after {found['short beside long'] * 1e3:.0f} ms")
    if "engine" in found:
        print(
            f"  engine without HTTP     {found['engine']:.1f} tokens/s: HTTP costs {1 - found['one'] / found['engine']:.1%}"
        )
    print(f"  memory of the load      {found['memory'] / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
