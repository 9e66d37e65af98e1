"""Sequence-to-sequence fine-tuning: gettext files, batches, greedy decoding."""

import json

import numpy as np
import pytest
import torch

from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import in_turn
from groundup.data.document import Document, DroppedDocument
from groundup.data.document_reader import read_file
from groundup.data.held_out_conversations import HELD_OUT
from groundup.data.inputs import InputFile
from groundup.data.readers.gettext import parse_gettext
from groundup.data.readers.reader_options import ReaderOptions
from groundup.finetune.encoded_conversations import EncodedConversation
from groundup.finetune.finetune_task import CHAT, SEQ2SEQ, greedy_answers, task_for_model
from groundup.finetune.seq2seq import Seq2SeqBatches, encode_seq2seq, pair_length
from groundup.finetune.training_data.conversations import read_conversations, split_conversations
from groundup.model import build_model
from groundup.plan import derive
from groundup.plan.defaults.finetune_defaults import finetuning_defaults
from groundup.recipe import ModelConfig, parse_recipe
from groundup.recipe.finetune_config import ConversationSourceConfig
from groundup.train.objectives import IGNORE_INDEX, UNSHIFTED

CATALOGUE = r"""# Header
msgid ""
msgstr ""
"Language: de\n"

#: a.py:1
msgid "Save"
msgstr "Speichern"

msgctxt "month"
msgid ""
"Two \"quoted\" "
"lines\n"
msgstr "Zwei \"Zeilen\""

#, fuzzy
msgid "Doubtful"
msgstr "Zweifelhaft"

msgid "Open"
msgstr ""

msgid "%d day"
msgid_plural "%d days"
msgstr[0] "%d Tag"
msgstr[1] "%d Tage"

#~ msgid "Old"
#~ msgstr "Alt"
"""


def encoder_decoder(seed: int = 0):
    torch.manual_seed(seed)
    shape = {"vocab_size": 264, "hidden_size": 48, "num_layers": 2, "num_heads": 2, "context_length": 32}
    return build_model(ModelConfig(architecture="encoder_decoder", **shape))


def test_gettext_entries_with_translation_only():
    assert parse_gettext(CATALOGUE, "x.po") == [["Save", "Speichern"], ['Two "quoted" lines\n', 'Zwei "Zeilen"']]
    assert parse_gettext(CATALOGUE.replace("\n", "\r\n"), "x.po")[0] == ["Save", "Speichern"]


def test_format_strings_and_untranslated_messages_are_dropped(tmp_path):
    entries = [
        ("%(count)d files", "%(count)d Dateien", "#, python-format\n"), ("Name", "Name", ""),
        ("Save", "Speichern", "#, no-python-format\n"),
    ]  # fmt: skip
    lines = [f'{flags}msgid "{message}"\nmsgstr "{translation}"\n' for message, translation, flags in entries]
    (tmp_path / "a.po").write_text("\n".join(lines))
    source = ConversationSourceConfig(name="a", kind="gettext", path=str(tmp_path / "a.po"))
    conversations, stats = read_conversations([source], Machine())
    assert [conversation.messages for conversation in conversations] == [in_turn(["Save", "Speichern"])]
    assert stats.dropped == {"format_string": 1, "untranslated": 1}


@pytest.mark.parametrize("kind", ["gettext", "messages"])
def test_text_of_pretraining_leaves_out_what_fine_tuning_holds_out(kind: str, tmp_path):
    pairs = [(f"Save the file {number}, or not?", f"Die Datei {number} speichern?") for number in range(200)]
    if kind == "gettext":
        path, text = tmp_path / "a.po", "\n".join(f'msgid "{one}"\nmsgstr "{two}"\n' for one, two in pairs)
        source = {"name": "a", "kind": "gettext", "path": str(path)}
    else:
        path, system = tmp_path / "a.jsonl", {"role": "system", "content": "Translate."}
        turns = [[system, {"role": "user", "content": o}, {"role": "assistant", "content": t}] for o, t in pairs]
        text = "\n".join(json.dumps({"messages": each}) for each in turns)
        source = {"name": "a", "kind": "jsonl", "path": str(path), "text_column": "messages"}
    path.write_text(text)
    chat = {"name": "a", "kind": kind, "path": str(path)}
    recipe = {"name": "x", "data": {"sources": [source]}, "tokenizer": {}, "train": {}, "budget": {"hours": 0.1}}
    recipe["finetune"] = {"conversations": [chat], "method": "full", "validation_fraction": 0.2}
    config = derive(parse_recipe(recipe)).recipe
    assert config.data is not None
    conversations, _ = read_conversations([ConversationSourceConfig(**chat)], Machine())
    train, validation = split_conversations(conversations, 0.2)
    options = ReaderOptions(
        source.get("text_column", "text"), held_out_conversations=config.data.held_out_conversations or 0
    )
    read = list(read_file(source["kind"], InputFile(path.name, path), options))
    texts = [each.text for each in read if isinstance(each, Document)]
    assert len(texts) == len(train) < 180
    assert all(any(each.answer in text for text in texts) for each in train)
    assert not any(each.answer in text for text in texts for each in validation)
    assert [each.reason for each in read if isinstance(each, DroppedDocument)] == [HELD_OUT] * len(validation)


def test_encode_seq2seq_and_its_length(conversations, byte_tokenizer):
    encoded = encode_seq2seq(conversations[0], byte_tokenizer)
    ids, mask = encoded.variants[0]
    assert byte_tokenizer.decode([id for id, answers in zip(ids, mask, strict=True) if not answers]) == "Hello"
    assert byte_tokenizer.decode([id for id, answers in zip(ids, mask, strict=True) if answers]) == "Hi"
    assert pair_length(encoded) == 6, "five letters and the end"


def test_an_epoch_has_each_pair_once(conversations, byte_tokenizer):
    pairs = [encode_seq2seq(conversation, byte_tokenizer) for conversation in conversations]
    batches = Seq2SeqBatches(pairs, 10, 2, 0, 3, 0)
    assert (batches.num_rows, batches.batch_rows) == (4, 2)
    shown = [tuple(row.tolist()) for step in (0, 1) for row in batches.batch(step)["labels"]]
    plain = [tuple(id for id in row if id not in (IGNORE_INDEX, 0)) for row in shown]
    assert sorted(byte_tokenizer.decode(list(row)) for row in plain) == sorted(
        ["Hi", "Fine.", "A human.", "A science."]
    )
    batch = batches.batch(0)
    assert torch.equal(batch["document_ids"] == 0, batch["tokens"] == 3)


def test_batches_hold_pairs_of_similar_length_the_longest_first():
    pairs = [
        EncodedConversation(((np.full(2 * n, 5), np.repeat(np.array([0, 1], np.uint8), n)),)) for n in range(1, 65)
    ]
    batches = Seq2SeqBatches(pairs, 40, 4, 0, 3, 0)
    steps = batches.num_rows // batches.batch_rows
    shown = [batches.batch(step)["document_ids"] for step in range(steps)]
    lengths = sorted(int(row.sum()) for rows in shown for row in rows)
    assert len(set(lengths)) == len(lengths), "each pair at most once in an epoch"
    padding = 1 - sum(lengths) / sum(rows.numel() for rows in shown)
    assert padding < 0.1, "without grouping it is a third"
    assert shown[0].shape[1] == max(rows.shape[1] for rows in shown)
    assert torch.equal(batches.batch(3)["tokens"], Seq2SeqBatches(pairs, 40, 4, 0, 3, 0).batch(3)["tokens"])


def test_seq2seq_memorizes_pairs(conversations, byte_tokenizer):
    model = encoder_decoder()
    pairs = [encode_seq2seq(conversation, byte_tokenizer) for conversation in conversations]
    batches = Seq2SeqBatches(pairs, 12, 4, 0, 3, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        UNSHIFTED.loss(model, batches.batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert SEQ2SEQ.answer(model, byte_tokenizer, "How are you?") == "Fine."
    assert SEQ2SEQ.answer(model, byte_tokenizer, "Hello") == "Hi"


def test_task_for_each_architecture():
    assert task_for_model(encoder_decoder()) is SEQ2SEQ
    shape = {"vocab_size": 9, "hidden_size": 8, "num_layers": 1, "num_heads": 1}
    assert task_for_model(build_model(ModelConfig(**shape))) is CHAT


def test_questions_that_do_not_fit_have_no_answer(byte_tokenizer):
    """The model of 32 tokens is asked questions of training, some of which fine-tuning has yet to drop as too long."""
    short, long, last = greedy_answers(encoder_decoder(), byte_tokenizer, ["Save", "Save " * 20, "Open"])
    assert long == ""
    assert [short, last] == greedy_answers(encoder_decoder(), byte_tokenizer, ["Save", "Open"])


def test_pairs_are_learnt_with_muon_by_small_models():
    def optimizer(*arguments):
        return finetuning_defaults("generation", "full", *arguments)["optimizer"]

    assert optimizer(4e6, 1e5, "encoder_decoder") == "muon"
    assert optimizer(8e7, 1e5, "encoder_decoder") == optimizer(4e6, 1e5, "decoder") == "adamw"
