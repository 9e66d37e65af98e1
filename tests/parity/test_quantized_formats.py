"""Exported folders in the engines that define their formats: the table of book/quantized-formats.md.

Engines live in environments of their own, whose pythons are named by environment variables; `make test-interop` makes them. An
engine without one is skipped. GOLDEN=write writes the cells that were measured into the table.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.interop.export_check import HARD_TEXT
from groundup.tokenizer import load_pretrained_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from engine_models import ARCHITECTURES, FORMATS, NEW, TOKENS, OwnModel, float_model, rows_of, write_folder

pytestmark = [pytest.mark.interop, pytest.mark.timeout(3600)]

PAGE = Path(__file__).parents[2] / "book" / "quantized-formats.md"
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
NOT_IN_VLLM = ("bert", "t5")
LIMIT = {"llama.cpp": 0.4, "vLLM (CPU)": 0.2, "transformers + GPTQModel": 0.2}
"""Of log-probabilities: kernels compute in bfloat16, and llama.cpp rounds activations to 8 bits."""
EXACT = 0.01
RANDOM_EXPERTS = ("transformers + GPTQModel", ("mixtral", "qwen3_moe"))
"""Transformers 5 joins experts and fills packed ones with random numbers, after a warning."""


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


def ask(python: str, kind: str, folders: list[Path]) -> list[dict[str, Any]]:
    """The answers of an engine."""
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    environment.pop("PYTHONPATH", None)
    asked: dict[str, Any] = {"tokens": TOKENS, "text": HARD_TEXT, "new": NEW, "folders": list(map(str, folders))}
    command = [python, str(Path(__file__).with_name("engine_script.py")), kind]
    if kind == "llama.cpp":
        encoder = OwnModel(folders[0]).architecture == "encoder"
        asked |= {"texts": [HARD_TEXT], "decoder_tokens": TOKENS, "outputs": "embeddings" if encoder else "logits"}
        files = [str(next(folder.glob("*.gguf"))) for folder in folders]
        command = [python, str(Path(__file__).with_name("llama_cpp_script.py")), *files]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, env=environment)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return [{"error": lines[-1][:300]}] * len(folders)


def compare(answer: dict[str, Any], own: OwnModel) -> tuple[float, str]:
    """The largest difference of a log-probability among those that the engine says are the best, or of an encoder's hidden
    state; and the greedy tokens that are equal before the first other one, which has to be a near tie."""
    if "outputs" in answer:  # llama.cpp's logits
        found = torch.tensor(answer["outputs"])
        if own.architecture == "encoder":
            return (found - own.hidden_states()).abs().max().item(), ""
        best = found.log_softmax(-1).topk(16, dim=-1)
        answer["logprobs"] = [
            dict(zip(ids, values, strict=True))
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        answer["ids"] = answer["ids"][0]
    expected = own.logprobs([])
    rows = zip(answer["logprobs"], expected, strict=False)
    worst = max(abs(value - row[int(id)].item()) for found, row in rows for id, value in found.items())
    if not answer["said"]:
        return worst, ""
    mine = own.logprobs(answer["said"])[len(TOKENS) - 1 : -1]
    for count, (row, said) in enumerate(zip(mine, answer["said"], strict=True)):
        if row.argmax() != said:
            assert row.max() - row[said] < 2 * worst + 1e-3, "another greedy token, and no near tie"
            return worst, f", {count}/{NEW}"
    return worst, f", {NEW}/{NEW}"


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_compute_what_we_compute(exports: Exports, engine: str):
    variable, kind, formats = ENGINES[engine]
    if not (python := os.environ.get(variable)):
        pytest.skip(f"{engine}: {variable} names no python")
    if not exports.exists:
        pytest.skip(f"{exports.architecture}: GROUNDUP_SMOLLM2 names no file, and the cache has none")
    if engine == "vLLM (CPU)" and exports.architecture in NOT_IN_VLLM:
        return
    cells: dict[str, str] = {}
    rows = [row for row in rows_of(exports.architecture) if FORMATS[row].name in formats]
    for row in rows:
        if isinstance(folder := exports.folder(row), str):
            print(f"{exports.architecture} | {row} | not written: {folder}", file=sys.stderr)
            cells[row] = "not written"
    rows = [row for row in rows if row not in cells]
    wrong = []
    for row, answer in zip(rows, ask(python, kind, [exports.folder(row) for row in rows]) if rows else [], strict=True):
        if "error" in answer:
            cells[row] = "refused"
            print(f"{exports.architecture} | {row} | {engine} | {answer['error']}", file=sys.stderr)
            continue
        worst, equal = compare(answer, exports.own(row))
        cells[row] = f"{worst:.1g}{equal}"
        print(f"{exports.architecture} | {row} | {engine} | {cells[row]}", file=sys.stderr)
        if engine == RANDOM_EXPERTS[0] and exports.architecture in RANDOM_EXPERTS[1]:
            cells[row] = "random"
        elif worst > LIMIT.get(engine, EXACT):
            wrong.append((row, worst))
        if answer["ids"] != tokenizer_ids(exports.folder(row)):
            wrong.append((row, "token ids", answer["ids"]))
    update_page(engine, exports.architecture, cells)
    assert not wrong


def tokenizer_ids(folder: Path) -> list[int]:
    from groundup.interop.gguf.gguf_import import read_gguf

    files = list(folder.glob("*.gguf"))
    tokenizer = read_gguf(files[0])[1] if files else load_pretrained_tokenizer(folder)
    return tokenizer.encode(HARD_TEXT)


def update_page(engine: str, architecture: str, cells: dict[str, str]) -> None:
    """Write the cells into the table, or assert that it says of the same ones that they are numbers."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    stated, _, after = rest.partition(END)
    table = read_table(stated)
    if os.environ.get("GOLDEN") == "write":
        for row, cell in cells.items():
            table[row, engine, architecture] = cell
        PAGE.write_text(f"{before}{BEGIN}\n{render(table)}{END}{after}", encoding="utf-8")
        return
    found = {row: cell[0].isdigit() or cell for row, cell in cells.items()}
    said = {row: table.get((row, engine, architecture), "-") for row in cells}
    assert found == {row: cell[0].isdigit() or cell for row, cell in said.items()}


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
