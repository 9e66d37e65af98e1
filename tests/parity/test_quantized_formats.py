"""Exported folders in the engines that define their formats: the table of book/quantized-formats.md.

Engines live in environments of their own, whose pythons are named by environment variables; `make test-interop` makes them. An
engine without one is skipped. GOLDEN=write writes the cells that were measured into the table.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.export_check import HARD_TEXT
from groundup.tokenizer import load_pretrained_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from engine_models import ARCHITECTURES, FORMATS, NEW, SMALL, TOKENS, OwnModel, float_model, rows_of, write_folder
from engine_script import ANSWER

pytestmark = [pytest.mark.interop, pytest.mark.timeout(3600)]

PAGE = Path(__file__).parents[2] / "book" / "quantized-formats.md"
SCRIPT = Path(__file__).with_name("engine_script.py")
BEGIN, END = "<!-- engines: begin -->", "<!-- engines: end -->"
ENGINES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "transformers + GPTQModel": ("GROUNDUP_GPTQMODEL_PYTHON", "transformers", ("gptq", "awq")),
    "transformers + compressed-tensors": (
        "GROUNDUP_COMPRESSED_TENSORS_PYTHON",
        "transformers",
        ("compressed-tensors",),
    ),
    "transformers + bitsandbytes": ("GROUNDUP_GPTQMODEL_PYTHON", "transformers", ("bitsandbytes",)),
    "vLLM (CPU)": ("GROUNDUP_VLLM_PYTHON", "vllm", ("gptq", "awq", "compressed-tensors", "bitsandbytes")),
    "llama.cpp": ("GROUNDUP_LLAMA_CPP_PYTHON", "llama.cpp", ("gguf",)),
    "transformers + gguf": ("GROUNDUP_GPTQMODEL_PYTHON", "transformers", ("gguf",)),
}
"""Variable with the python, kind of script, formats."""
IN_VLLM = ("gptq, 4 bits", "awq, 4 bits, asymmetric", "compressed-tensors, 4 bits")
NOT_IN_VLLM = ("bert", "t5")
LIMIT = {
    "llama.cpp": 0.05,
    "vLLM (CPU)": 0.05,
    "transformers + GPTQModel": 0.05,
    "transformers + compressed-tensors": 0.05,
}
"""Of log-probabilities: kernels compute in bfloat16, and inputs that are rounded to 8 bits may fall to the other side."""
EXACT = 0.01
TRAINED_LIMIT = 1.0
"""Of SmolLM2, whose largest activations are hundreds of times the others, where an engine computes in bfloat16 or with inputs
in 8 bits; the greedy tokens have to be equal all the same."""
MISREAD = {
    ("transformers + GPTQModel", "mixtral"): "random",
    ("transformers + GPTQModel", "qwen3_moe"): "random",
    ("transformers + gguf", "mixtral"): "random",
    ("transformers + gguf", "t5"): "relu",
}
"""Transformers 5 joins experts and fills packed ones with random numbers, after a warning; it takes Mixtral in a
GGUF file, which is of architecture "llama" there, for Llama without its feed-forward, and gives each T5 ReLU gates, where
the models have GELU."""


class Exports:
    """The folders of one architecture, written when first asked for: a path, or why there is none."""

    def __init__(self, architecture: str, parent: Path):
        self.architecture, self._parent = architecture, parent
        self._model = float_model(architecture)
        self.exists = self._model is not None
        self.folder = cache(self._folder)
        self.own = cache(lambda row: OwnModel(self.folder(row)))

    def _folder(self, row: str) -> Path | str:
        assert self._model is not None
        parent = self._parent / str(list(FORMATS).index(row))
        try:
            return write_folder(*self._model, FORMATS[row], parent)
        except UserError as error:
            return error.message


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(request.param, tmp_path_factory.mktemp("exports"))


class EngineProcess:
    """The python of an engine, which imports once and answers for many folders."""

    def __init__(self, python: str, kind: str):
        environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
        environment["VLLM_CPU_INT4_W4A8"] = "0"  # else it rounds the inputs of layers to 8 bits
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, SCRIPT, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip

    def ask(self, folder: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"tokens": TOKENS, "text": HARD_TEXT, "new": NEW, "folder": str(folder)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise AssertionError(f"the engine ended with exit code {self._process.wait()}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def engine_process() -> Iterator[Callable[[str, str], EngineProcess]]:
    started: dict[tuple[str, str], EngineProcess] = {}

    def find(python: str, kind: str) -> EngineProcess:
        if (python, kind) not in started:
            started[python, kind] = EngineProcess(python, kind)
        return started[python, kind]

    yield find
    for process in started.values():
        process.close()


def ask_llama_cpp(python: str, folder: Path) -> dict[str, Any]:
    """A process for each file: llama.cpp ends it where it cannot load one."""
    outputs = "embeddings" if OwnModel(folder).architecture == "encoder" else "logits"
    asked = {"tokens": TOKENS, "texts": [HARD_TEXT], "decoder_tokens": TOKENS, "outputs": outputs, "new": NEW}
    command = [python, SCRIPT.with_name("llama_cpp_script.py"), next(folder.glob("*.gguf"))]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    return json.loads(done.stdout)[0] if not done.returncode else {"error": f"{done.returncode}: {lines[-1:]}"}


def compare(answer: dict[str, Any], own: OwnModel) -> tuple[float, str, str]:
    """The largest difference of a log-probability among those that the engine says are the best, or of an encoder's hidden
    state; the number of greedy tokens before the first other one; what is wrong if that is no near tie."""
    if "outputs" in answer:  # llama.cpp's logits
        found = torch.tensor(answer["outputs"])
        answer["ids"] = answer["ids"][0]
        if own.architecture == "encoder":
            return (found - own.hidden_states()).abs().max().item(), "", ""
        best = found.log_softmax(-1).topk(16, dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answer["logprobs"] = [dict(zip(ids, values, strict=True)) for ids, values in pairs]
    rows = zip(answer["logprobs"], own.logprobs([]), strict=False)
    worst = max(abs(value - row[int(id)].item()) for found, row in rows for id, value in found.items())
    if not answer["said"]:
        return worst, "", ""
    mine = own.logprobs(answer["said"])[len(TOKENS) - 1 : -1]
    for count, (row, said) in enumerate(zip(mine, answer["said"], strict=True)):
        if row.argmax() != said:
            near = row.max() - row[said] < 2 * worst + 1e-3
            return worst, f", {count}/{NEW}", "" if near else f"greedy token {count} differs, and is no near tie"
    return worst, f", {NEW}/{NEW}", ""


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_compute_what_we_compute(exports: Exports, engine: str, engine_process: Callable):
    variable, kind, formats = ENGINES[engine]
    if not (python := os.environ.get(variable)):
        pytest.skip(f"{engine}: {variable} names no python")
    if not exports.exists:
        pytest.skip(f"{exports.architecture}: GROUNDUP_SMOLLM2 names no file, and the cache has none")
    if engine == "vLLM (CPU)" and exports.architecture in NOT_IN_VLLM:
        return
    rows = [row for row in rows_of(exports.architecture) if FORMATS[row].name in formats]
    if engine == "vLLM (CPU)" and exports.architecture != "llama":  # each takes a process of its own
        rows = [row for row in rows if row in IN_VLLM]
    wrong = []
    for row in rows:
        if isinstance(folder := exports.folder(row), str):
            cell = "not written"
            print(f"{exports.architecture} | {row} | not written: {folder}", file=sys.stderr)
        else:
            own = exports.own(row)
            answer = ask_llama_cpp(python, folder) if kind == "llama.cpp" else engine_process(python, kind).ask(folder)
            cell, faults = judge(answer, own, engine, exports.architecture)
            print(f"{exports.architecture} | {row} | {engine} | {cell} | {answer.get('error', '')}", file=sys.stderr)
            if "ids" in answer and answer["ids"] != tokenizer_ids(folder):
                faults.append("other token ids")
            wrong += [(row, fault) for fault in faults]
        update_page(engine, exports.architecture, row, cell)
    assert not wrong


def judge(answer: dict[str, Any], own: OwnModel, engine: str, architecture: str) -> tuple[str, list[str]]:
    """The cell of the table, and what is wrong."""
    if "error" in answer:
        return "refused", []
    worst, equal, fault = compare(answer, own)
    if (engine, architecture) in MISREAD:
        return MISREAD[engine, architecture], []
    faults = [fault] if fault else []
    limit = LIMIT.get(engine, EXACT)
    if architecture == SMALL and limit > EXACT:
        limit = TRAINED_LIMIT
    return f"{worst:.1g}{equal}", faults + ([] if worst <= limit else [f"difference {worst}"])


def tokenizer_ids(folder: Path) -> list[int]:
    from groundup.interop.gguf.gguf_import import read_gguf

    files = list(folder.glob("*.gguf"))
    tokenizer = read_gguf(files[0])[1] if files else load_pretrained_tokenizer(folder)
    return tokenizer.encode(HARD_TEXT)


def update_page(engine: str, architecture: str, row: str, cell: str) -> None:
    """Write a cell into the table, or assert that the table has a number where this is one, and the same word otherwise."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    stated, _, after = rest.partition(END)
    table = read_table(stated)
    if os.environ.get("GOLDEN") == "write":
        table[row, engine, architecture] = cell
        PAGE.write_text(f"{before}{BEGIN}\n{render(table)}{END}{after}", encoding="utf-8")
        return
    said = table.get((row, engine, architecture), "-")
    assert (said[0].isdigit() or said) == (cell[0].isdigit() or cell), (row, said, cell)


def read_table(text: str) -> dict[tuple[str, str, str], str]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    if len(lines) < 2:
        return {}
    architectures = lines[0][2:]
    return {
        (row, engine, architecture): cell
        for row, engine, *cells in lines[2:]
        for architecture, cell in zip(architectures, cells, strict=True)
        if cell != "-"
    }


def render(cells: dict[tuple[str, str, str], str]) -> str:
    lines = [f"| format | engine | {' | '.join(ARCHITECTURES)} |", f"|{'---|' * (len(ARCHITECTURES) + 2)}"]
    for row in FORMATS:
        for engine in ENGINES:
            found = [cells.get((row, engine, architecture), "-") for architecture in ARCHITECTURES]
            if any(cell != "-" for cell in found):
                lines.append(f"| {row} | {engine} | {' | '.join(found)} |")
    return "\n".join(lines) + "\n"
