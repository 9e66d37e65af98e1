"""Our GPTQ beside GPTQModel's: the same model, the same text, the same scheme, and we open what it writes.

GPTQModel lives in an environment of its own, because its pins conflict with ours: GROUNDUP_GPTQMODEL_PYTHON
names that environment's python.
"""

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from groundup.artifacts.progress import ProgressTask
from groundup.interop import export_huggingface
from groundup.model import Decoder
from groundup.quantize.float_comparison import compare_with_float
from groundup.quantize.formats.huggingface_folder import load_huggingface_quantized
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

pytestmark = pytest.mark.interop

SCRIPT = """
import json, os, sys
os.cpu_count = lambda: 8  # it asks for two workers where two cores leave one
from gptqmodel import GPTQModel, QuantizeConfig
folder, tokens, out = sys.argv[1:]
windows = json.loads(open(tokens).read())
model = GPTQModel.load(folder, QuantizeConfig(bits=4, group_size=64, sym=True, desc_act=False), device="cpu")
model.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in windows], batch_size=1)
model.save(out)
"""


def small_tokenizer(folder: Path) -> None:
    """GPTQModel wants one to be there."""
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={chr(i + 32): i for i in range(256)}, merges=[]))
    Tokenizer(backend, eos="a", pad="a").save(folder)


def test_error_is_no_larger_than_gptqmodels(tmp_path):
    python = os.environ.get("GROUNDUP_GPTQMODEL_PYTHON")
    if not python:
        pytest.skip("GROUNDUP_GPTQMODEL_PYTHON names no environment with gptqmodel")
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=256, hidden_size=256, num_layers=2, num_heads=4, context_length=128)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    export_huggingface(model, None, tmp_path / "plain")
    small_tokenizer(tmp_path / "plain")
    generator = torch.Generator().manual_seed(1)
    windows, held_out = (torch.randint(0, 256, (n, 128), generator=generator) for n in (64, 16))
    (tmp_path / "windows.json").write_text(json.dumps(windows.tolist()))
    subprocess.run(
        [python, "-c", SCRIPT, tmp_path / "plain", tmp_path / "windows.json", tmp_path / "reference"],
        check=True, timeout=900, capture_output=True, text=True,
    )  # fmt: skip
    models = {"reference": load_huggingface_quantized(tmp_path / "reference")}
    for method in ("gptq", "rtn"):
        models[method] = copy.deepcopy(model)
        quantize_model(models[method], QuantizationSettings(method, QuantizationScheme(4, 64)), windows)
    found = compare_with_float(model, models, held_out, ProgressTask("", None, ""))
    print({name: comparison.kl_divergence for name, comparison in found.items()})
    assert found["gptq"].kl_divergence < 0.9 * found["rtn"].kl_divergence
    assert found["gptq"].kl_divergence < 1.1 * found["reference"].kl_divergence
