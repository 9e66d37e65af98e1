"""Text embeddings: equal to the pooled hidden states of transformers, whatever the batch."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

import groundup
from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.generate import embed_texts, nearest_texts
from groundup.generate.text_classification import TextClassifier
from groundup.generate.text_embedding import batches_by_length, embed_batch
from groundup.interop import load_huggingface
from groundup.interop.classifier_files import write_classifier
from groundup.model import build_model, save_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {"vocab_size": 260, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "context_length": 48}
TEXTS = ["a short text", "x", "a text that is longer than all of the others", "four", "a short text!"]
IDS = [[5, 6, 7], [9], list(range(10, 40)), [50, 51, 52, 53]]
THEIRS = {
    "bert": transformers.BertConfig(
        vocab_size=131, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ),
    "modernbert": transformers.ModernBertConfig(
        vocab_size=131, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        local_attention=8, pad_token_id=0, reference_compile=False,
    ),
    "t5": transformers.T5Config(
        vocab_size=131, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=131, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ),
}  # fmt: skip
CLASSES = {
    "bert": "BertForMaskedLM", "modernbert": "ModernBertForMaskedLM", "t5": "T5ForConditionalGeneration",
    "llama": "LlamaForCausalLM",
}  # fmt: skip


def build(architecture: str):
    torch.manual_seed(0)
    return build_model(ModelConfig(architecture=architecture, **SHAPE)).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([], 260)


@pytest.mark.parametrize("family", THEIRS)
def test_vectors_equal_pooled_hidden_states_of_transformers(family, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(transformers, CLASSES[family])(THEIRS[family]).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    body = theirs.get_encoder() if family == "t5" else theirs.base_model
    means = embed_batch(ours, IDS, normalize=False)
    pools = {pooling: embed_batch(ours, IDS, pooling=pooling) for pooling in ("mean", "cls", "last")}
    with torch.no_grad():
        for row, ids in enumerate(IDS):
            states = body(torch.tensor([ids])).last_hidden_state[0]
            torch.testing.assert_close(means[row], states.mean(dim=0), rtol=1e-4, atol=1e-4)
            for name, state in (("mean", states.mean(dim=0)), ("cls", states[0]), ("last", states[-1])):
                expected = torch.nn.functional.normalize(state, dim=0)
                torch.testing.assert_close(pools[name][row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder", "decoder"])
def test_a_vector_does_not_depend_on_the_batch(architecture, tokenizer):
    model = build(architecture)
    together = embed_texts(model, tokenizer, TEXTS)
    assert together.shape == (5, 32)
    alone = torch.cat([embed_texts(model, tokenizer, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))


def test_batches_hold_every_text_once():
    batches = list(batches_by_length([[0] * n for n in (3, 9, 1, 5, 2)], max_tokens=10))
    assert batches == [[1], [3, 0], [4, 2]]


def test_pooling_of_the_model_and_wrong_arguments(tokenizer):
    model = build("encoder")
    first = build_model(ModelConfig(architecture="encoder", pooling="cls", **SHAPE)).eval()
    first.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        embed_texts(first, tokenizer, TEXTS), embed_texts(model, tokenizer, TEXTS, pooling="cls")
    )
    with pytest.raises(UserError, match="pooling = 'max', expected one of mean, cls, last"):
        embed_texts(model, tokenizer, TEXTS, pooling="max")
    with pytest.raises(UserError, match="expected a list of texts"):
        embed_texts(model, tokenizer, "text")
    assert embed_texts(model, tokenizer, []).shape == (0, 32)


def test_long_texts_are_truncated_and_the_nearest_comes_first(tokenizer):
    model = build("encoder")
    vectors = groundup.embed_texts(model, tokenizer, ["b" * 90, "b" * 48, "c" * 20, ""])
    torch.testing.assert_close(vectors[0], vectors[1])
    assert nearest_texts(vectors[2], vectors, 2)[0][0] == 2
    assert nearest_texts(vectors[2], vectors, 9)[0][1] == pytest.approx(1.0)


def test_commands_say_what_they_leave_out_and_refuse(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build("encoder")
    write_classifier(TextClassifier(model, ("bad", "good")).head, tmp_path)
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    Path("long.txt").write_text("\ufeffword " + "word " * 100 + "\nshort\n", encoding="utf-8")

    def use(*arguments: str):
        return CliRunner().invoke(app, arguments)

    for command in (["classify", ".", "--json"], ["embed", "."]):
        done = use(*command, "--input", "long.txt")
        assert done.exception is None, done.exception
        assert done.stderr == "note: of 1 of 2 texts, only the first 48 tokens (the context) are read\n"
        assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1", "2"]
    assert use("embed", ".", "--input", "long.txt", "--query", "word").stdout.splitlines()[0].split()[2] == "word"
    for arguments, message in (
        (("embed", ".", "a", " "), "text 2 is empty: nothing to embed"),
        (("classify", ".", ""), "text 1 is empty: nothing to classify"),
        (("embed", ".", "a", "--query", " "), "--query: an empty text"),
        (("embed", ".", "a", "--out", "none/v.npy"), "none/v.npy: no folder none"),
    ):
        error = use(*arguments).exception
        assert isinstance(error, UserError)
        assert message in error.message
