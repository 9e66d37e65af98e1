"""Classifiers of transformers, opened and exported by us: equal logits, entities, and what is refused."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import BertWordPieceTokenizer
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.cli import app
from groundup.cli.model_check import check_writes_text
from groundup.finetune import load_classifier, load_reward_model
from groundup.generate import classify_texts, find_entities
from groundup.interop import export_huggingface, load_huggingface, open_model
from groundup.interop.model_export import export
from groundup.quantize import export_model, quantize_folder
from groundup.quantize import open_model as open_packed

sys.path.insert(0, str(Path(__file__).parent))
from family_draws import DRAWS, Draw
from family_draws.draw import VOCABULARY
from test_random_families import LIMIT, difference, randomize

NAMES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "modernbert", "nomic_bert")
TASKS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


def build(name: str, task: str, folder: Path, seed: int = 0, **fields: Any) -> Any:
    drawn = DRAWS[name](Draw(f"{name} {task} {seed}"))
    config = transformers.AutoConfig.for_model(
        **{
            "id2label": LABELS,
            "label2id": {label: number for number, label in LABELS.items()},
            **drawn.config,
            **fields,
        }
    )
    reference = randomize(getattr(transformers, task).from_config(config))
    reference.save_pretrained(folder)
    return reference


@torch.inference_mode()
def logits(model: torch.nn.Module, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Logits of rows of different lengths; of tokens, those of padding as 0."""
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    found = model(tokens, lengths) if hasattr(model, "labels") else model(tokens, attention_mask=real.long()).logits
    return found if found.dim() == 2 else found * real[..., None]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_classifiers_both_ways(name: str, task: str, tmp_path: Path, unchecked_shapes: None):
    lengths = torch.tensor([20, 13])
    tokens = torch.randint(3, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    for seed in range(3):
        folder = tmp_path / str(seed)
        reference = build(name, task, folder, seed)
        ours = load_classifier(load_huggingface(folder), folder)
        assert ours.labels == tuple(LABELS.values())
        expected = logits(reference, tokens, lengths)
        assert difference(logits(ours, tokens, lengths), expected) < LIMIT

        export_huggingface(ours.model, None, folder / "out", classifier=ours.head)
        exported, info = getattr(transformers, task).from_pretrained(folder / "out", output_loading_info=True)
        assert not any(info.values()), info
        assert exported.config.id2label == LABELS
        assert difference(logits(exported.eval(), tokens, lengths), expected) < LIMIT


def write_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    words = ["anna", "lives", "in", "oslo", "new", "york", "with", "bob"]
    pieces = [chr(letter) for letter in range(97, 123)] + [f"##{chr(letter)}" for letter in range(97, 123)]
    vocabulary = {
        word: number for number, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *words, *pieces])
    }
    fast = transformers.BertTokenizerFast(tokenizer_object=BertWordPieceTokenizer(vocab=vocabulary)._tokenizer)
    fast.save_pretrained(folder)
    return fast


TEXTS = ["Anna lives in New York, with Bob", "oslo", "bob in anna in oslo"]


def test_entities_are_those_of_the_pipeline(tmp_path: Path):
    reference = build("bert", TASKS[1], tmp_path)
    with torch.no_grad():  # labels that differ from token to token
        for name, parameter in reference.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    reference.save_pretrained(tmp_path)
    pipeline = transformers.pipeline(
        "token-classification",
        model=reference,
        tokenizer=write_tokenizer(tmp_path),
        aggregation_strategy="simple",
        device="cpu",
    )
    model, tokenizer = open_model(tmp_path, "cpu")
    found = find_entities(load_classifier(model, tmp_path), tokenizer, TEXTS)
    expected = pipeline(TEXTS)
    assert sum(map(len, expected)) > 3
    for entities, theirs in zip(found, expected, strict=True):
        assert [entity[:3] for entity in entities] == [(e["entity_group"], e["start"], e["end"]) for e in theirs]
        assert [entity.probability for entity in entities] == pytest.approx(
            [float(e["score"]) for e in theirs], abs=1e-4
        )

    done = CliRunner().invoke(app, ["classify", str(tmp_path), TEXTS[0]], catch_exceptions=False)
    first = found[0][0]
    text = TEXTS[0][first.begin : first.end]
    assert done.stdout.splitlines()[0] == f"{first.probability:.4f}  {first.label}  1  {text}"
    done = CliRunner().invoke(app, ["classify", str(tmp_path), TEXTS[0], "--json"], catch_exceptions=False)
    assert [entity["text"] for entity in json.loads(done.stdout)["entities"]] == [
        TEXTS[0][e.begin : e.end] for e in found[0]
    ]
    page = (Path(__file__).parents[2] / "book" / "classifiers.md").read_text()
    example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0].replace("ner-model", str(tmp_path))
    exec(compile(example, "classifiers.md", "exec"), {"Path": Path})
    with pytest.raises(UserError, match="a classifier of tokens, expected one of texts"):
        classify_texts(load_classifier(model, tmp_path), tokenizer, TEXTS)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_labels_are_those_of_the_pipeline_and_stay_with_the_model(problem: str, tmp_path: Path):
    names = {0: "bad", 1: "good", 2: "neither"}
    fields = {
        "id2label": names,
        "label2id": {label: number for number, label in names.items()},
        "problem_type": problem,
    }
    reference = build("distilbert", TASKS[0], tmp_path / "model", **fields)
    pipeline = transformers.pipeline(
        "text-classification", model=reference, tokenizer=write_tokenizer(tmp_path / "model"), top_k=None, device="cpu"
    )
    expected = [{row["label"]: row["score"] for row in rows} for rows in pipeline(TEXTS)]
    export_model(tmp_path / "model", tmp_path / "huggingface", format="huggingface")
    for name in ("model", "huggingface"):
        model, tokenizer = open_model(tmp_path / name, "cpu")
        rows = classify_texts(load_classifier(model, tmp_path / name), tokenizer, TEXTS).tolist()
        for row, wanted in zip(rows, expected, strict=True):
            assert dict(zip(names.values(), row, strict=True)) == pytest.approx(wanted, abs=1e-5)
    exported = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "huggingface")
    assert exported.config.problem_type == problem


def test_a_head_that_the_format_has_no_place_for_stands_beside_the_model(tmp_path: Path):
    build("bert", TASKS[0], tmp_path / "model", hidden_act="gelu")
    write_tokenizer(tmp_path / "model")
    model, tokenizer = open_model(tmp_path / "model", "cpu")
    files = export(model, tokenizer, tmp_path / "out", format="gguf", source=tmp_path / "model")
    assert {"labels.json", "classifier.safetensors"} <= {file.name for file in files}


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        (
            "bert",
            "AutoModelForQuestionAnswering",
            r"BertForQuestionAnswering: answers are found in a given text; expected",
        ),
        ("roberta", "AutoModelForMultipleChoice", r"RobertaForMultipleChoice: one of several texts is chosen"),
        ("bert", "AutoModelForNextSentencePrediction", r"BertForNextSentencePrediction: two texts are judged"),
        (
            "llama",
            "AutoModelForSequenceClassification",
            r"LlamaForSequenceClassification: a classifier of texts, or a score",
        ),
        ("gpt2", "AutoModelForTokenClassification", r"GPT2ForTokenClassification: a classifier of tokens"),
    ],
)
def test_heads_of_other_tasks_are_refused_by_name(name: str, task: str, message: str, tmp_path: Path):
    build(name, task, tmp_path)
    with pytest.raises(UserError, match=message):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
def test_scores_of_pairs_are_those_of_transformers(name: str, tmp_path: Path):
    """A reranker: one output for a query and a text, whose token types differ in BERT."""
    one = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "max_position_embeddings": 20}
    reference = build(name, TASKS[0], tmp_path, **one | ({"type_vocab_size": 2} if name == "bert" else {}))
    theirs = write_tokenizer(tmp_path)
    length = load_huggingface(tmp_path).config.context_length
    pairs = theirs(
        [TEXTS[0]] * 3, TEXTS, truncation="only_second", max_length=length, padding=True, return_tensors="pt"
    )
    pairs |= {} if name == "bert" else {"token_type_ids": torch.zeros_like(pairs["token_type_ids"])}
    with torch.inference_mode():
        expected = reference(**pairs).logits
    model, tokenizer = open_model(tmp_path, "cpu")
    found = classify_texts(load_classifier(model, tmp_path), tokenizer, TEXTS, query=TEXTS[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    command = ["classify", str(tmp_path), "--query", TEXTS[0], *TEXTS]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    order = found[:, 0].argsort(descending=True).tolist()
    assert [line.split("  ")[2] for line in done.stdout.splitlines()] == [str(row + 1) for row in order]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_reward_models_both_ways(name: str, tmp_path: Path):
    """A decoder with one score, as trl trains it: read, exported, and scored by the command."""
    one = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": 0, "tie_word_embeddings": False}
    reference = build(name, TASKS[0], tmp_path / "theirs", **one)
    tokens = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(tokens).logits[:, 0]
        model = load_huggingface(tmp_path / "theirs")
        found = load_reward_model(model, tmp_path / "theirs")(tokens, torch.tensor([9, 9]))
        assert difference(found, expected) < LIMIT
        export(model, None, tmp_path / "out", format="huggingface", source=tmp_path / "theirs")  # type: ignore[arg-type]
        theirs = getattr(transformers, TASKS[0])
        exported, info = theirs.from_pretrained(tmp_path / "out", output_loading_info=True, pad_token_id=0)
        assert not any(info.values()), info
        assert difference(exported.eval()(tokens).logits[:, 0], expected) < LIMIT
    with pytest.raises(UserError, match="a reward model, which scores answers and writes none"):
        check_writes_text(tmp_path / "out")


def test_packed_classifiers_keep_their_labels(tmp_path: Path):
    build("bert", TASKS[0], tmp_path / "model", intermediate_size=96)
    write_tokenizer(tmp_path / "model")
    quantize_folder(tmp_path / "model", tmp_path / "out", method="rtn", bits=8)
    model, _ = open_packed(tmp_path / "out", "cpu")
    assert load_classifier(model, tmp_path / "out").labels == tuple(LABELS.values())


def test_models_without_labels_are_refused_by_name(tmp_path: Path):
    build("electra", "AutoModelForPreTraining", tmp_path / "discriminator")
    model = load_huggingface(tmp_path / "discriminator")
    with pytest.raises(
        UserError, match=r"a model without labels \(ElectraForPreTraining: its head tells replaced tokens"
    ):
        load_classifier(model, tmp_path / "discriminator")
