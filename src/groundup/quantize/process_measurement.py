"""Resident memory and decoding speed of a model, measured in a process that opens nothing else.

    python -m groundup.quantize.process_measurement MODEL DEVICE THREADS [ADAPTER]

Prints one line of JSON. Memory that this process happens to hold, such as the float model beside the packed one, counts for
nothing there.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT_TOKENS, DECODED_TOKENS = 16, 64


def measure_process(
    path: Path, device: str = "cpu", threads: int | None = None, adapter: Path | str | None = None
) -> dict[str, float]:
    """`resident_bytes`, beyond those of the interpreter and torch, and of a decoder `tokens_per_second` of one text.

    Empty where the process fails, or where the operating system does not tell a process its memory.
    """
    command = [sys.executable, "-m", __spec__.name, str(path), device, str(threads or 0)]
    if adapter is not None:
        command.append(str(adapter))
    package_folder = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (package_folder, os.getenv("PYTHONPATH"))))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def resident_bytes() -> int | None:
    """Resident memory of this process, without the code of libraries, which is read as it is first run; None where there is
    no /proc."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    total, is_library = 0, False
    for line in lines:
        first, *others = line.split(maxsplit=5)
        if not first.endswith(":"):  # the head of a mapping
            is_library = len(others) == 5 and ".so" in Path(others[4]).name
        elif first == "Rss:" and not is_library:
            total += int(others[0]) * 1024
    return total


def _measure(path: str, device: str, threads: int, adapter: str | None) -> dict[str, Any]:
    import torch

    from groundup.generate import GREEDY, generate
    from groundup.model import Decoder
    from groundup.quantize.model_loader import open_model

    if threads:
        torch.set_num_threads(threads)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # starts the threads
    before = resident_bytes()
    model, _ = open_model(path, device, adapter=adapter, verify=False)
    found: dict[str, Any] = {}
    if isinstance(model, Decoder):
        number = min(DECODED_TOKENS, model.config.context_length - PROMPT_TOKENS)
        prompt = [1] * min(PROMPT_TOKENS, model.config.context_length // 2)
        if number > 1:
            generate(model, prompt, max_tokens=2, sampling=GREEDY)
            start = time.perf_counter()
            generated = generate(model, prompt, max_tokens=number, sampling=GREEDY, stop_ids=())
            found["tokens_per_second"] = len(generated) / (time.perf_counter() - start)
    else:
        length = min(64, model.config.context_length)  # type: ignore[union-attr,type-var]
        tokens = torch.ones(1, length, dtype=torch.int64, device=next(model.parameters()).device)
        with torch.no_grad():
            model(tokens, **({"decoder_tokens": tokens} if hasattr(model, "decoder") else {}))
    after = resident_bytes()
    if before is not None and after is not None:
        found["resident_bytes"] = after - before
    return found


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), *(sys.argv[4:5] or [None]))))
