"""Resident memory of models in 16, 8 and 4 bits, each opened alone in a process that has run a small one before."""

import json
import subprocess
import sys

import pytest
import torch

from groundup.model import build_model, load_model, save_model
from groundup.quantize import QuantizationScheme
from groundup.quantize.layers.packed_layers import make_layer
from groundup.quantize.layers.quantized_experts import split_experts
from groundup.quantize.quantization_grid import round_to_nearest
from groundup.quantize.quantized_folder import save_quantized_folder
from groundup.quantize.quantizer import quantizable_layers
from groundup.recipe import ModelConfig

SMALL = {"vocab_size": 260, "num_heads": 8, "context_length": 64}
MOE = {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 1024}
MEASURE = """
import gc, json, sys
from groundup.generate import generate
from groundup.quantize import open_model
from groundup.artifacts.freed_memory import release_freed_memory
from groundup.quantize.process_measurement import resident_bytes

def run(folder):
    gc.collect()
    release_freed_memory()
    before = resident_bytes()
    model, _ = open_model(folder, "cpu")
    generate(model, list(range(20)), max_tokens=4)
    return resident_bytes() - before

for folder in sys.argv[1:3]:
    run(folder)
print(json.dumps([run(folder) for folder in sys.argv[3:]]))
"""


def make_folders(folder, tokenizer, sizes):
    """The folders of one model in bfloat16, 8 and 4 bits."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        save_model(build_model(ModelConfig.model_validate(SMALL | sizes)), folder / "16")
    finally:
        torch.set_default_dtype(torch.float32)
    for bits in (8, 4):
        packed = load_model(folder / "16")
        split_experts(packed)
        for name, layer in quantizable_layers(packed).items():
            weight = round_to_nearest(layer.weight.detach(), QuantizationScheme(bits, 128))
            packed.set_submodule(name, make_layer(weight))
        save_quantized_folder(packed, folder / str(bits), "rtn")
    for bits in (16, 8, 4):
        tokenizer.save(folder / str(bits))
    return [str(folder / str(bits)) for bits in (16, 8, 4)]


SMOLLM2 = {
    "vocab_size": 49_152, "hidden_size": 576, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "intermediate_size": 1536,
    "context_length": 2048, "tie_embeddings": True,
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("sizes", "eight", "four"),
    [
        ({"hidden_size": 512, "num_layers": 6, "intermediate_size": 2048}, 0.62, 0.42),
        pytest.param(SMOLLM2, 0.55, 0.33, marks=pytest.mark.slow),
        pytest.param(
            {"hidden_size": 2048, "num_layers": 4, "intermediate_size": 8192}, 0.55, 0.33, marks=pytest.mark.slow
        ),
        pytest.param({"hidden_size": 1024, "num_layers": 4, "moe": MOE}, 0.55, 0.33, marks=pytest.mark.slow),
    ],
    ids=["small", "135m", "layers of 1b", "moe"],
)
def test_memory_falls_with_the_bits(byte_tokenizer, tmp_path, sizes, eight, four):
    tiny = make_folders(
        tmp_path / "tiny", byte_tokenizer, {"hidden_size": 128, "num_layers": 1, "intermediate_size": 128}
    )
    folders = make_folders(tmp_path / "large", byte_tokenizer, sizes)
    command = [sys.executable, "-c", MEASURE, tiny[0], tiny[2], *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    ratios = [bytes_ / found[0] for bytes_ in found]
    assert ratios[1] < eight, ratios
    assert ratios[2] < four, ratios
