"""Every reader of files that people download or edit, with valid files for it."""

import base64
import copy
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors import safe_open

from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.machine import Machine
from groundup.artifacts.run_record import update_record, verify_run
from groundup.data.document import Document
from groundup.data.document_reader import read_file
from groundup.data.inputs import InputFile
from groundup.data.readers.reader_options import ReaderOptions
from groundup.evaluate.tasks import run_task
from groundup.finetune.lora import apply_lora
from groundup.finetune.training_data.conversations import read_conversations
from groundup.interop.adapters import load_adapter, save_adapter
from groundup.interop.families import FAMILIES
from groundup.interop.gguf import export_gguf, load_gguf
from groundup.interop.huggingface_model import export_huggingface, load_huggingface
from groundup.interop.model_loading import open_model
from groundup.interop.zero_checkpoint import ZeroCheckpoint
from groundup.model import build_model
from groundup.model.serialization import save_model
from groundup.pipeline import read_recipe
from groundup.plan import derive
from groundup.plan.scaling.prediction import SCALING_LAW_FILE, predict_loss, recipe_signature
from groundup.plan.scaling.scaling_law import ScalingLaw
from groundup.quantize.formats.huggingface_folder import export_huggingface_quantized, load_huggingface_quantized
from groundup.quantize.quantization_grid import QuantizationScheme
from groundup.quantize.quantized_folder import load_quantized_folder, save_quantized_folder
from groundup.quantize.quantizer import QuantizationSettings, quantize_model
from groundup.recipe import ModelConfig, load_recipe
from groundup.recipe.evaluate_config import TaskConfig
from groundup.recipe.finetune_config import ConversationSourceConfig
from groundup.report.report_files import build_report
from groundup.report.run_summary import summarize_run
from groundup.serve.api_error import ApiError
from groundup.serve.chat_protocol import ChatRequest
from groundup.serve.protocol import CompletionRequest
from groundup.serve.request_validation import parse_request
from groundup.tokenizer import Tokenizer, TokenShard, load_pretrained_tokenizer, write_token_shard
from groundup.tokenizer.tokenizer_training import train_tokenizer
from groundup.viewers.run_reader import RunReader

TESTS = Path(__file__).parents[1]
TEXTS = ["The quick brown fox's 12 cubs jump over the lazy dog, don't they? Ünïcödé 狐 and 🦊 too"] * 20
MODEL = ModelConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32, context_length=64)
RECIPE = """
[[data.sources]]
name = "a"
kind = "text"
path = "*.txt"
[tokenizer]
vocab_size = 1000
[model]
num_layers = 2
hidden_size = 64
num_heads = 2
[train]
steps = 10
learning_rate = 1e-3
[evaluate]
prompts = ["x"]
"""


@dataclass(frozen=True)
class Reader:
    """A reader with a folder of valid files, those that are damaged, and the call that reads the folder.

    Attributes:
        share: of the number of damaged files; less for a slow reader.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    share: float = 1.0


def load_test_module(path: str) -> ModuleType:
    """A module of another test folder."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), TESTS / f"{path}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def all_readers(root: Path) -> list[Reader]:
    """The readers, with their valid files in folders of `root`."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=290)
    readers = [*tokenizer_readers(root), *model_readers(root, tokenizer), *run_readers(root, tokenizer)]
    return [*readers, *text_readers(root, tokenizer), *data_readers(root)]


def tokenizer_readers(root: Path) -> list[Reader]:
    def use(folder: Path) -> None:
        tokenizer = load_pretrained_tokenizer(folder)
        tokenizer.decode(tokenizer.encode("Hello 狐 <|im_end|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"))
        _ = tokenizer.stop_ids, tokenizer.fingerprint
        if tokenizer.chat_template:
            tokenizer.render_chat_with_mask(
                [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "b"}]
            )

    folder = root / "tokenizer"
    tokenizer = train_tokenizer(TEXTS, vocab_size=290)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template or "")
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "x"}, "unk_token": "y"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "temperature": 0.5}))
    unigram = root / "unigram"
    train_tokenizer(TEXTS, vocab_size=266, algorithm="unigram").save(unigram)
    llama = root / "llama"
    load_test_module("tokenizer/test_tokenizer").llama_like().save(str(_made(llama) / "tokenizer.json"))
    pieces = _made(root / "sentencepiece") / "tokenizer.model"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=300, hard_vocab_limit=False, minloglevel=2,
        byte_fallback=True,
    )  # fmt: skip
    pieces.write_bytes(model.getvalue())
    ranks = _made(root / "tiktoken") / "tokenizer.model"
    ranks.write_text("".join(f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256)) + "aGk= 256\n")
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
    return [
        *(Reader(name, folder, (name,), use) for name in (*names, "chat_template.jinja")),
        Reader("tokenizer.json, Unigram", unigram, ("tokenizer.json",), use),
        Reader("tokenizer.json, Llama 2", llama, ("tokenizer.json",), use),
        Reader("SentencePiece model", pieces.parent, (pieces.name,), use),
        Reader("tiktoken file", ranks.parent, (ranks.name,), use),
    ]


def model_readers(root: Path, tokenizer: Tokenizer) -> list[Reader]:
    torch.manual_seed(0)
    model = build_model(MODEL)
    save_model(model, root / "native")
    tokenizer.save(root / "native")
    export_huggingface(model, tokenizer, root / "huggingface")
    shutil.copytree(root / "huggingface", root / "sharded")
    weights = root / "sharded/model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00001.safetensors"))
    with safe_open(weights.with_name("model-00001-of-00001.safetensors"), "pt") as file:
        index = {
            "metadata": {"total_size": 1},
            "weight_map": dict.fromkeys(file.keys(), "model-00001-of-00001.safetensors"),
        }
    (root / "sharded/model.safetensors.index.json").write_text(json.dumps(index))
    export_gguf(model, tokenizer, _made(root / "gguf") / "m.gguf")
    readers = [
        Reader(
            "model.json and weights",
            root / "native",
            ("model.json", "model.safetensors"),
            lambda f: open_model(f, "cpu"),
        ),
        Reader("config.json, Llama", root / "huggingface", ("config.json",), load_huggingface),
        Reader("model.safetensors", root / "huggingface", ("model.safetensors",), load_huggingface),
        Reader("safetensors index", root / "sharded", ("model.safetensors.index.json",), load_huggingface),
        Reader("GGUF", root / "gguf", ("m.gguf",), lambda folder: load_gguf(folder / "m.gguf", torch.device("cpu"))),
    ]
    for name, family in FAMILIES.items():
        fields = family.defaults | {foreign: 4 for foreign in family.keys.values() if foreign not in family.defaults}
        fields |= {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "model_type": name}
        (_made(root / f"family {name}") / "config.json").write_text(json.dumps(fields))
        shutil.copy(root / "huggingface/model.safetensors", root / f"family {name}")
        readers.append(Reader(f"config.json, {name}", root / f"family {name}", ("config.json",), load_huggingface))
    for method, scheme in (("gptq", (4, 32, True)), ("awq", (4, 32, False)), ("compressed-tensors", (8, 32, False))):
        quantized = build_model(MODEL)
        quantize_model(quantized, QuantizationSettings(method="rtn", scheme=QuantizationScheme(*scheme)))
        folder = root / method
        export_huggingface_quantized(quantized, tokenizer, folder, format=method, dtype="float32")
        files = ("config.json", "model.safetensors")
        readers.append(Reader(f"{method} folder", folder, files, load_huggingface_quantized))
    save_quantized_folder(quantized, _made(root / "quantized"), "rtn")
    files = ("quantization.json", "model.json", "model.safetensors")
    readers.append(Reader("quantization.json and weights", root / "quantized", files, load_quantized_folder))
    base = build_model(MODEL)
    adapted = copy.deepcopy(base)
    apply_lora(adapted, 4, 8.0)
    save_adapter(adapted, root / "adapter")
    files = ("adapter_config.json", "adapter_model.safetensors", "base_model.json")
    readers.append(Reader("adapter", root / "adapter", files, lambda folder: load_adapter(copy.deepcopy(base), folder)))
    with pytest.MonkeyPatch.context() as patch:
        load_test_module("interop/test_zero_checkpoint").write(root / "zero", patch, stage=2)
    files = ("latest", *(str(path.relative_to(root / "zero")) for path in sorted((root / "zero").glob("*/*.pt"))))
    readers.append(Reader("ZeRO checkpoint", root / "zero", files, read_zero))
    return readers


def read_zero(folder: Path) -> None:
    checkpoint = ZeroCheckpoint(folder)
    for name in checkpoint.shapes:
        checkpoint.read(name)


def run_readers(root: Path, tokenizer: Tokenizer) -> list[Reader]:
    run = root / "run"
    load_test_module("report/conftest").made_up_run(run)
    update_record(run, add=("plan.json", "recipe.json"))

    def report(folder: Path) -> None:
        (folder / "run.json").unlink()  # which would refuse every change
        summarize_run(folder)
        RunReader(folder).refresh()

    def document(folder: Path) -> None:
        (folder / "run.json").unlink()
        build_report(folder)

    def verify(folder: Path) -> None:
        verify_run(folder, [path for path in folder.iterdir() if path.is_dir()])

    manifests = tuple(str(path.relative_to(run)) for path in run.glob("*/manifest.json"))
    write_token_shard(root / "shard/train", TEXTS, tokenizer)
    recipe = _made(root / "recipe")
    (recipe / "recipe.toml").write_text(RECIPE)
    plan = derive(load_recipe(recipe / "recipe.toml"))
    law = {
        "scaling_law": vars(ScalingLaw(1e6, [1.0, 1.1], [0.5, 0.6], [0.3, 0.2])), "points": [1, 2, 3],
        "tokens_per_parameter": plan.summary()["tokens_per_parameter"],
        "signature": fingerprint(recipe_signature(plan.recipe)),
    }  # fmt: skip
    (_made(root / "law") / SCALING_LAW_FILE).write_text(json.dumps(law, default=vars))
    (recipe / "recipe.json").write_text(json.dumps(plan.recipe.model_dump(mode="json", exclude_none=True)))
    return [
        Reader("manifest.json", run, manifests, report),
        Reader("plan.json", run, ("plan.json",), report),
        Reader("the report", run, (*manifests, "plan.json", "recipe.json"), document, share=0.2),
        Reader("steps.jsonl", run, tuple(str(p.relative_to(run)) for p in run.glob("*/*.jsonl")), report),
        Reader("run.json", run, ("run.json",), verify),
        Reader("recipe.json", recipe, ("recipe.json",), lambda folder: derive(read_recipe(folder))),
        Reader("scaling law", root / "law", (SCALING_LAW_FILE,), lambda folder: predict_loss(plan.recipe, plan, folder)),
        Reader("recipe.toml", recipe, ("recipe.toml",), lambda folder: derive(load_recipe(folder / "recipe.toml"))),
        Reader("token shard", root / "shard", tuple(f"train{s}" for s in (".bin", ".idx", ".src", ".json")),
               lambda folder: TokenShard(folder / "train").tokens[:]),
    ]  # fmt: skip


def text_readers(root: Path, tokenizer: Tokenizer) -> list[Reader]:
    folder = _made(root / "texts")
    model: Any = build_model(MODEL).eval()
    lines = {
        "choices.jsonl": [{"question": "a?", "choices": ["b", "c"], "answer": 0}] * 2,
        "completions.jsonl": [{"prompt": "a b", "completion": "c"}] * 2,
        "messages.jsonl": [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3,
    }
    for name, items in lines.items():
        (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "chatterbot.yml").write_text(
        "categories:\n- a\nconversations:\n- - Hello\n  - Hi\n- - 'x: y'\n  - |\n    z\n"
    )
    (folder / "gettext.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain"\n\n#, c\nmsgid "a\\n"\nmsgstr "b"\n'
    )

    def task(name: str, kind: Any) -> Callable[[Path], Any]:
        return lambda path: run_task(TaskConfig(name="t", kind=kind, path=str(path / name)), model, tokenizer)

    def talk(name: str, kind: Any) -> Callable[[Path], Any]:
        def read(path: Path) -> None:
            source = ConversationSourceConfig(name="s", kind=kind, path=str(path / name))
            conversations, stats = read_conversations([source], Machine(cache_dir=path))
            json.dumps(stats.positions)
            for conversation in conversations:
                tokenizer.render_chat(conversation.messages)

        return read

    readers = [
        ("choices.jsonl", task("choices.jsonl", "multiple_choice")),
        ("completions.jsonl", task("completions.jsonl", "completion")),
        ("messages.jsonl", talk("messages.jsonl", "messages")),
        ("chatterbot.yml", talk("chatterbot.yml", "chatterbot")),
        ("gettext.po", talk("gettext.po", "gettext")),
    ]
    return [*(Reader(name, folder, (name,), read) for name, read in readers), *request_readers(root)]


def request_readers(root: Path) -> list[Reader]:
    def parse(kind: Any, name: str) -> Callable[[Path], str]:
        def read(path: Path) -> str:
            try:
                parse_request(kind, (path / name).read_bytes())
            except ApiError:
                return "refused"
            return "read"

        return read

    folder = _made(root / "requests")
    common = {"model": "m", "max_tokens": 5, "temperature": 0.5, "stop": ["a", "b"], "seed": 1, "stream": False}
    chat = common | {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        ]
    }
    (folder / "chat.json").write_text(json.dumps(chat | {"logprobs": True, "top_logprobs": 2}))
    (folder / "completion.json").write_text(json.dumps(common | {"prompt": ["a", "b"], "logprobs": 2}))
    return [
        Reader("chat request", folder, ("chat.json",), parse(ChatRequest, "chat.json")),
        Reader("completion request", folder, ("completion.json",), parse(CompletionRequest, "completion.json")),
    ]


def data_readers(root: Path) -> list[Reader]:
    def reader(kind: str, name: str) -> Callable[[Path], Any]:
        def read(folder: Path) -> str:
            found = list(read_file(kind, InputFile(name, folder / name), ReaderOptions(html_extractor="resiliparse")))
            return "read" if any(isinstance(each, Document) for each in found) else "dropped"

        return read

    readers = []
    for kind, name, data in load_test_module("data/test_data_fuzz").samples():
        folder = _made(root / f"{kind} {name}")
        (folder / name).write_bytes(data)
        readers.append(Reader(f"{kind}: {name}", folder, (name,), reader(kind, name)))
    return readers


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
