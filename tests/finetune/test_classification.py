"""Classifiers: learning, the folder, the command, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.cli import app
from groundup.finetune import finetune_classifier, load_classifier
from groundup.finetune.stage import run
from groundup.generate import classify_texts
from groundup.interop import open_model
from groundup.model import build_model, save_model
from groundup.model.classification_head import ClassificationHead, HeadSettings
from groundup.quantize import export_model
from groundup.recipe import ModelConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.tokenizer.tokenizer_training import train_bpe

WORDS = [a + b + c for a in "bdfglm" for b in "aeiou" for c in "nprst"]
EXAMPLES = [(f"it is {word}", "vowel o" if "o" in word else "another") for word in WORDS]
OPTIONS = {"batch_tokens": 300, "learning_rate": 5e-3, "epochs": 8}
MACHINE = Machine(threads=1, device="cpu")


def model():
    torch.manual_seed(0)
    shape = {
        "vocab_size": 260,
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "context_length": 32,
        "norm": "layernorm",
        "embedding_norm": True,
        "feed_forward": "geglu",
    }
    return build_model(ModelConfig(architecture="encoder", **shape))


@pytest.fixture
def examples_file(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in EXAMPLES))
    return path


def test_classifier_is_better_than_the_most_frequent_label():
    train, validation = [e for i, e in enumerate(EXAMPLES) if i % 5], EXAMPLES[::5]
    network, tokenizer = model(), train_bpe([], 260)
    classifier, metrics = finetune_classifier(network, tokenizer, train, validation, machine=MACHINE, **OPTIONS)
    scores = metrics["classification"]
    assert scores["majority"] == sum(label == "another" for _, label in validation) / len(validation)
    assert scores["accuracy"] > 0.95 > scores["majority"]
    assert scores["labels"] == {"another": 96, "vowel o": 24}
    probabilities = classify_texts(classifier, tokenizer, ["it is gon", "it is gen"])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert [classifier.labels[row] for row in probabilities.argmax(dim=1)] == ["vowel o", "another"]


def test_stage_writes_a_folder_that_the_command_reads(tmp_path, examples_file):
    tokenizer, out = train_bpe([], 260), tmp_path / "out"
    out.mkdir()
    save_model(model(), tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    source = {"name": "words", "kind": "labels", "path": str(examples_file)}
    config = FinetuneConfig(
        task="classification", examples=[source], method="full", precision="float32", validation_fraction=0.1, **OPTIONS
    )
    inputs = {"base": tmp_path / "base", "tokenizer": tmp_path / "base"}
    metrics = run(SimpleNamespace(finetune=config, seed=0), inputs, out, MACHINE)
    json.dumps(metrics, allow_nan=False)
    assert metrics["examples"] == {"read": 150, "kept": 150, "dropped": {}, "train": 120, "validation": 30}
    assert metrics["classification"]["accuracy"] > metrics["classification"]["majority"]

    texts = ["it is lor", "it is ler"]
    network, tokenizer = open_model(out)
    expected = classify_texts(load_classifier(network, out), tokenizer, texts)
    (tmp_path / "in.txt").write_text("\n".join(texts))
    done = CliRunner().invoke(app, ["classify", str(out), "--input", str(tmp_path / "in.txt")], catch_exceptions=False)
    assert done.stdout.splitlines() == [
        f"{row.max():.4f}  {label}  {number}  {text}"
        for row, label, number, text in zip(expected, ["vowel o", "another"], (1, 2), texts, strict=True)
    ]
    exported = export_model(out, tmp_path / "exported", format="huggingface").files
    assert {path.name for path in exported} >= {"labels.json", "classifier.safetensors", "config.json"}
    command = ["classify", str(tmp_path / "exported"), texts[0], "--json"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert json.loads(done.stdout)["probabilities"]["vowel o"] == pytest.approx(expected[0, 1].item(), abs=1e-5)


def test_the_head_of_a_classifier_is_trained_further():
    """With its labels the whole head stays, with others all but its last layer."""
    network, tokenizer = model(), train_bpe([], 260)
    settings = HeadSettings(("vowel o", "another"), activation="tanh", pooling="cls")
    head = ClassificationHead(32, settings)
    options = OPTIONS | {"epochs": 0.1, "head": head, "machine": MACHINE}
    classifier, _ = finetune_classifier(network, tokenizer, EXAMPLES, **options)
    assert classifier.head is head
    renamed = [(text, label.upper()) for text, label in EXAMPLES]
    classifier, _ = finetune_classifier(network, tokenizer, renamed, **options)
    assert classifier.labels == ("ANOTHER", "VOWEL O")
    assert classifier.head.dense is not None
    assert classifier.head.settings.pooling == "cls"


def test_a_model_without_labels_and_damaged_labels_are_refused(tmp_path):
    tokenizer, network = train_bpe([], 260), model()
    save_model(network, tmp_path)
    with pytest.raises(UserError, match="a model without labels"):
        load_classifier(network, tmp_path)
    for labels in ('{"labels": ["one"]}', "[1]", '{"labels": [1, 2]}', '{"labels": ["a", "b"]}'):
        (tmp_path / "labels.json").write_text(labels)
        with pytest.raises(UserError, match=r"damaged|expected an object"):
            load_classifier(network, tmp_path)
    with pytest.raises(UserError, match="labels of the training texts: a; expected two or more"):
        finetune_classifier(network, tokenizer, [("x", "a"), ("y", "a")])
