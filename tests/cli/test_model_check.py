"""What commands say about models that do not write, or were never taught to chat."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.cli.model_check import open_for_writing
from groundup.generate import ChatSession
from groundup.interop.classifier_files import write_classifier
from groundup.interop.model_loading import as_trained
from groundup.model import build_model, save_model
from groundup.model.classification_head import ClassificationHead, HeadSettings
from groundup.quantize import export_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import load_pretrained_tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {"vocab_size": 260, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}


def write(folder, architecture: str = "decoder") -> None:
    torch.manual_seed(0)
    save_model(build_model(ModelConfig(architecture=architecture, **SHAPE)), folder)
    train_bpe([], 260).save(folder)


@pytest.mark.parametrize(
    ("stage", "inputs", "is_base"),
    [("base", {"tokenizer": "x", "tokens": "y"}, True), ("base", {}, False), ("chat", {"base": "x"}, False)],
)
def test_the_model_of_a_pretraining_is_a_base_model(tmp_path, stage, inputs, is_base):
    write(tmp_path)
    Manifest(stage, 1, "x", inputs=inputs).write(tmp_path)
    model, tokenizer = open_for_writing(tmp_path, "cpu", "auto", verify=False)
    assert (tokenizer.chat_template is None) == is_base
    export_model(tmp_path, tmp_path / "exported", format="huggingface", verify=False)
    assert (load_pretrained_tokenizer(tmp_path / "exported").chat_template is None) == is_base
    if is_base:
        with pytest.raises(UserError, match="it is a base model") as caught:
            ChatSession(model, tokenizer)
        assert "groundup generate" in (caught.value.hint or "")


def test_other_tokenizers_are_as_they_are(tmp_path):
    write(tmp_path)
    tokenizer = train_bpe([], 260)
    assert as_trained(tmp_path, tokenizer) is tokenizer


def test_encoders_and_classifiers_name_their_command(tmp_path):
    write(tmp_path, "encoder")
    with pytest.raises(UserError, match="an encoder") as caught:
        open_for_writing(tmp_path, "cpu", "auto", verify=False)
    assert "groundup embed" in (caught.value.hint or "")
    write_classifier(ClassificationHead(32, HeadSettings(("good", "bad"))), tmp_path)
    with pytest.raises(UserError, match=r"a classifier \(good, bad\)") as caught:
        open_for_writing(tmp_path, "cpu", "auto", verify=False)
    assert "groundup classify" in (caught.value.hint or "")
