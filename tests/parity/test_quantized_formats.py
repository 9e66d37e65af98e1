"""Exported folders in the engines that define their formats: the table of book/quantized-formats.md.

Engines live in environments of their own: GROUNDUP_GPTQMODEL_PYTHON, GROUNDUP_COMPRESSED_TENSORS_PYTHON (transformers with each)
and GROUNDUP_VLLM_PYTHON name their pythons; `make test-interop` makes them. GOLDEN=write writes the table.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from groundup.interop.export_check import HARD_TEXT
from groundup.model import build_model
from groundup.quantize import quantize_model
from groundup.quantize.formats.huggingface_folder import export_huggingface_quantized, load_huggingface_quantized
from groundup.quantize.quantization_grid import WHOLE_ROW, QuantizationScheme
from groundup.quantize.quantizer import QuantizationSettings
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

pytestmark = pytest.mark.interop

PAGE = Path(__file__).parents[2] / "book" / "quantized-formats.md"
BEGIN, END = "<!-- engines: begin -->", "<!-- engines: end -->"
SCRIPT = Path(__file__).with_name("engine_script.py")
SHAPE: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 512,
    "context_length": 128,
}  # fmt: skip
MOE = {"num_experts": 4, "experts_per_token": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"attention_bias": "qkv", "tie_embeddings": True},
    "qwen3": {"qk_norm": True, "tie_embeddings": True},
    "gemma": {"norm": "zero_centered_rmsnorm", "feed_forward": "geglu_tanh", "embedding_scale": 16.0, "tie_embeddings": True},
    "mixtral": {"moe": MOE},
    "qwen3_moe": {"qk_norm": True, "moe": {**MOE, "intermediate_size": 256}},
    "t5": {
        "architecture": "encoder_decoder", "num_encoder_layers": 2, "num_kv_heads": 4, "position_embedding": "relative",
        "tie_embeddings": True, "decoder_start_token_id": 0, "attention_scale": 1.0,
    },
}  # fmt: skip
SCHEMES: dict[str, tuple[str, QuantizationScheme]] = {
    "gptq, 4 bits": ("gptq", QuantizationScheme(4, 64, True)),
    "gptq, 8 bits": ("gptq", QuantizationScheme(8, 64, True)),
    "gptq_v2, 4 bits, asymmetric": ("gptq", QuantizationScheme(4, 64, False)),
    "awq, 4 bits, asymmetric": ("awq", QuantizationScheme(4, 64, False)),
    "compressed-tensors, 4 bits": ("compressed-tensors", QuantizationScheme(4, 64, True)),
    "compressed-tensors, 4 bits, asymmetric": ("compressed-tensors", QuantizationScheme(4, 64, False)),
    "compressed-tensors, 8 bits by channel": ("compressed-tensors", QuantizationScheme(8, WHOLE_ROW, True)),
}
ENGINES = {
    "transformers + GPTQModel": ("GROUNDUP_GPTQMODEL_PYTHON", "transformers", ("gptq", "awq")),
    "transformers + compressed-tensors": (
        "GROUNDUP_COMPRESSED_TENSORS_PYTHON",
        "transformers",
        ("compressed-tensors",),
    ),
    "vLLM (CPU)": ("GROUNDUP_VLLM_PYTHON", "vllm", ("gptq", "awq", "compressed-tensors")),
}
TOKENS = torch.randint(0, 500, (24,), generator=torch.Generator().manual_seed(1)).tolist()
LIMIT = 0.15
"""Of log-probabilities, where kernels compute in bfloat16."""
RANDOM_EXPERTS = ("transformers + GPTQModel", ("mixtral", "qwen3_moe"))
"""Transformers 5 joins experts and fills packed ones with random numbers, after a warning."""


def build(knobs: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**SHAPE | knobs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter)) if parameter.ndim < 2 else None
    return model


def write_folders(parent: Path) -> dict[tuple[str, str], Path | str]:
    """The folder of each format and architecture, or why there is none."""
    tokenizer = train_bpe([PAGE.with_name("models.md").read_text(encoding="utf-8")], 400)
    folders: dict[tuple[str, str], Path | str] = {}
    for architecture, knobs in ARCHITECTURES.items():
        for row, (format, scheme) in SCHEMES.items():
            if architecture == "t5" and format == "gptq":
                continue  # refused: transformers does not open it
            model = build(knobs)
            quantize_model(model, QuantizationSettings("rtn", scheme))
            out = parent / f"{architecture}-{len(folders)}"
            export_huggingface_quantized(model, tokenizer, out, format=format, dtype="float16")
            folders[row, architecture] = out
    return folders


@torch.no_grad()
def expected_logprobs(folder: Path) -> torch.Tensor:
    model: Any = load_huggingface_quantized(folder).float()
    tokens = torch.tensor([TOKENS])
    inputs = {"decoder_tokens": tokens} if model.config.architecture == "encoder_decoder" else {}
    return model(tokens, **inputs).logits[0].log_softmax(-1)


def ask(python: str, engine: str, folders: dict[Path, str]) -> dict[Path, dict[str, Any]]:
    """The answers of an engine; vLLM gets a process for each folder."""
    answers: dict[Path, dict[str, Any]] = {}
    lots = [[folder] for folder in folders] if engine == "vllm" else [list(folders)]
    for lot in lots:
        asked = {
            "tokens": TOKENS, "folders": list(map(str, lot)), "text": HARD_TEXT,
            "methods": {str(folder): method for folder, method in folders.items()},
        }  # fmt: skip
        environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [python, SCRIPT, engine], input=json.dumps(asked), capture_output=True, text=True, env=environment
        )
        try:
            found = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            found = [{"error": lines[-1][:200]}] * len(lot)
        answers |= zip(lot, found, strict=True)
    return answers


def difference(answer: dict[str, Any], expected: torch.Tensor) -> float:
    """The largest difference of a log-probability among those that the engine says are the best."""
    rows = zip(answer["logprobs"], expected, strict=False)
    return max(abs(value - row[int(id)].item()) for found, row in rows for id, value in found.items())


def test_engines_compute_what_we_compute(tmp_path):
    pythons = {name: os.environ.get(variable) for name, (variable, _, _) in ENGINES.items()}
    if not all(pythons.values()):
        pytest.skip(f"no environment for {', '.join(name for name, python in pythons.items() if not python)}")
    folders = write_folders(tmp_path)
    cells: dict[tuple[str, str, str], str] = {}
    tokenizer_ids = None
    wrong = []
    for engine, (_, kind, methods) in ENGINES.items():
        keys = [key for key in folders if SCHEMES[key[0]][0] in methods]
        if kind == "vllm":
            keys = [key for key in keys if key[1] != "t5"]  # vLLM has no encoder-decoders of T5's kind
        answers = ask(str(pythons[engine]), kind, {Path(folders[key]): SCHEMES[key[0]][0] for key in keys})
        for key in keys:
            answer = answers[Path(folders[key])]
            print(engine, *key, answer.get("error", ""), file=sys.stderr)
            if "error" in answer:
                cells[(*key, engine)] = "refused"
                continue
            found = difference(answer, expected_logprobs(Path(folders[key])))
            cells[(*key, engine)] = f"{found:.1g}"
            print("   ", found, file=sys.stderr)
            if engine == RANDOM_EXPERTS[0] and key[1] in RANDOM_EXPERTS[1]:
                cells[(*key, engine)] = "random"
                continue
            tokenizer_ids = tokenizer_ids or answer["ids"]
            if answer["ids"] != tokenizer_ids:
                wrong.append((*key, engine, "token ids"))
            if found > LIMIT:
                wrong.append((*key, engine, found))
    table = render(cells)
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if os.environ.get("GOLDEN") == "write":
        PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{after.partition(END)[2]}", encoding="utf-8")
    assert not wrong
    stated = after.partition(END)[0]
    shown = {line: [cell in ("refused", "random") for cell in line.split(" | ")] for line in table.splitlines()}
    if os.environ.get("GOLDEN") != "write":
        assert list(shown.values()) == [
            [cell in ("refused", "random") for cell in line.split(" | ")] for line in stated.strip().splitlines()
        ]


def render(cells: dict[tuple[str, str, str], str]) -> str:
    lines = [f"| format | engine | {' | '.join(ARCHITECTURES)} |", f"|{'---|' * (len(ARCHITECTURES) + 2)}"]
    for row in SCHEMES:
        for engine in ENGINES:
            found = [cells.get((row, architecture, engine), "-") for architecture in ARCHITECTURES]
            if any(cell != "-" for cell in found):
                lines.append(f"| {row} | {engine} | {' | '.join(found)} |")
    return "\n".join(lines) + "\n"
