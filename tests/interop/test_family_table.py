"""The table of model families."""

import json

import pytest
from typer.testing import CliRunner

from groundup.cli import app
from groundup.interop.families import FAMILIES
from groundup.interop.family_table import COLUMNS, family_rows, small_config


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_small_configuration(name: str):
    assert small_config(FAMILIES[name]).architecture == FAMILIES[name].kind


def test_rows_follow_the_checks():
    rows = {row["class"]: row for row in family_rows()}
    assert len(rows) == len(FAMILIES)
    assert all(row["huggingface"] and row["train"].startswith("native") for row in rows.values())
    llama, bert = rows["LlamaForCausalLM"], rows["BertForMaskedLM"]
    assert (llama["gguf"], llama["quantize"], "LoRA" in llama["fine-tune"]) == ("llama", "yes", True)
    assert (bert["serve"], bert["quantize"], bert["fine-tune"]) == ("embeddings", "yes", "labels, embeddings")


def test_command_lists_every_family():
    result = CliRunner().invoke(app, ["models", "--json"])
    assert [set(row) for row in json.loads(result.output)] == [set(COLUMNS)] * len(FAMILIES)
    text = CliRunner().invoke(app, ["models"]).output
    assert len(text.splitlines()) == len(FAMILIES) + 1
