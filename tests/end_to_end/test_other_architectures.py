"""The recipes of the encoder and the encoder-decoder, made tiny, from text to scores."""

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from groundup.artifacts.manifest import Manifest
from groundup.cli import app

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = {
    "tokenizer.vocab_size": 512,
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.context_length": 64,
    "model.head_dim": 16,
    "train.steps": 40,
    "train.batch_tokens": 512,
    "data.validation_fraction": 0.1,
    "machine.threads": 1,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name in sorted(topics)[::2]:
        (folder / f"{name}.txt").write_text(topics[name], encoding="utf-8")
    entries = [(f"Open file {number}", f"Datei {number} öffnen") for number in range(60)]
    lines = [f'msgid "{message}"\nmsgstr "{translation}"\n' for message, translation in entries]
    (folder / "django.po").write_text("\n".join(lines), encoding="utf-8")
    return folder


def run(recipe: str, text: Path, runs: Path, **more: str) -> str:
    knobs = {name: str(value) for name, value in SMALL.items()}
    knobs["data.sources"] = f'[{{name="topics", kind="text", path="{text}/*.txt"}}]'
    command = [sys.executable, "-m", "groundup.cli", "run", str(RECIPES / f"{recipe}.toml"), "--runs", str(runs)]
    command += [part for name, value in (knobs | more).items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics(folder: Path) -> dict:
    manifest = Manifest.read(folder)
    assert manifest is not None
    return manifest.metrics


def use(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_encoder_learns_masked_tokens_and_embeds(text, tmp_path):
    tuning = {"finetune.epochs": "2", "finetune.batch_tokens": "2048", "finetune.learning_rate": "5e-3"}
    pretraining = {"train.optimizer": "muon", "train.learning_rate": "3e-3", "model.init_std": "0.02"}
    shown = run("encoder", text, tmp_path, **pretraining, **tuning)
    assert "accuracy on masked tokens" in shown
    assert "groundup chat" not in shown, "an encoder cannot chat"
    assert f"groundup embed {tmp_path / 'encoder'} --input FILE" in shown
    evaluations = metrics(tmp_path / "encoder" / "04-base")["validation"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"] < 6.3
    scores = metrics(tmp_path / "encoder" / "05-scores")["masked_lm"]
    assert scores["masked_tokens"] > 50
    assert scores["loss"] == pytest.approx(evaluations[-1]["loss"], rel=0.2)
    before = metrics(tmp_path / "encoder" / "05-scores")["retrieval"]
    tuned = metrics(tmp_path / "encoder" / "06-chat")
    assert (tuned["task"], tuned["retrieval"]["passages"]) == ("embedding", before["passages"])
    assert tuned["retrieval"]["before"] == pytest.approx(before["accuracy"], abs=0.02)
    assert tuned["retrieval"]["accuracy"] > before["accuracy"] + 0.02
    assert tuned["loss"]["validation_end"] < tuned["loss"]["validation_start"]
    assert "before fine-tuning); by words (" in shown

    texts = ["The assignment of a value.", "A loop over the items.", "The end of the text"]
    (tmp_path / "texts.jsonl").write_text(
        "\n".join(json.dumps({"id": f"t{i}", "text": t}) for i, t in enumerate(texts))
    )
    command = ["embed", tmp_path / "encoder", "--input", tmp_path / "texts.jsonl"]
    vectors = [json.loads(line)["embedding"] for line in use(*command).splitlines()]
    assert use(*command, "--query", texts[1], "--top", 1) == f"1.0000  t1  {texts[1]}\n"
    use(*command, "--out", tmp_path / "v.npy")
    assert np.load(tmp_path / "v.npy").tolist() == vectors
    assert (tmp_path / "v.ids.txt").read_text().split() == ["t0", "t1", "t2"]
    exported = tmp_path / "encoder" / "10-export"
    theirs = transformers.AutoModel.from_pretrained(exported).eval()
    assert theirs.config.model_type == "modernbert"
    tokenize = transformers.AutoTokenizer.from_pretrained(exported)
    with torch.no_grad():
        states = theirs(torch.tensor([tokenize(texts[0])["input_ids"]])).last_hidden_state[0]
    weights = torch.ones(len(states))
    if tuned["weighted_tokens"]:
        table = json.loads((exported / "1_WordWeights" / "config.json").read_text())["word_weights"]
        weights = torch.tensor([table[token] for token in tokenize.tokenize(texts[0])])
    expected = torch.nn.functional.normalize(weights @ states, dim=0)
    torch.testing.assert_close(torch.tensor(vectors[0]), expected, rtol=1e-4, atol=1e-4)


def test_encoder_decoder_pretrains_and_finetunes_on_pairs(text, tmp_path):
    pairs = f'[{{name="pairs", kind="gettext", path="{text}/*.po"}}]'
    more = {"finetune.conversations": pairs, "finetune.epochs": "6", "finetune.prompts": '["Open file 7"]'}
    shown = run("t5-translate", text, tmp_path, **more, **{"finetune.validation_fraction": "0.2"})
    assert f"groundup generate {tmp_path / 't5-translate'} --input FILE" in shown
    assert "the input copied:" in shown
    folder = tmp_path / "t5-translate"
    evaluations = metrics(folder / "04-base")["validation"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    chat = metrics(folder / "06-chat")
    assert chat["loss"]["validation_end"] < chat["loss"]["validation_start"]
    assert chat["answers"][0]["prompt"] == "Open file 7"
    assert chat["translation"]["pairs"] == chat["conversations"]["validation"]
    assert json.loads((folder / "06-chat" / "model.json").read_text())["architecture"] == "encoder_decoder"

    sources = ["Open file 3", "Open file 51", "Something else"]
    (tmp_path / "in.txt").write_text("\n".join(sources))
    answers = use("generate", folder, "--input", tmp_path / "in.txt", "--max-tokens", 12).splitlines()
    assert use("generate", folder, "--prompt", sources[0], "--max-tokens", 12).rstrip("\n") == answers[0]
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / "10-export").eval()
    tokenize = transformers.AutoTokenizer.from_pretrained(folder / "10-export")
    options = {"num_beams": 4, "length_penalty": 0.6, "no_repeat_ngram_size": 4, "do_sample": False}
    for source, answer in zip(sources, answers, strict=True):
        ids = theirs.generate(**tokenize(source, return_tensors="pt"), max_new_tokens=12, **options)[0]
        assert tokenize.decode(ids, skip_special_tokens=True) == answer
