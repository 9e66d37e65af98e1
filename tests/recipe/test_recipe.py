"""Recipes: errors, overrides, dump and parse, documentation of knobs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.recipe import Recipe, RecipeView, build_model_config, load_recipe, parse_recipe
from groundup.recipe.allowed_inputs import is_allowed
from groundup.recipe.explain import explain_knob, json_schema, knob_table
from groundup.recipe.field_words import KNOBS_OF_WORDS, VALUES_OF_WORDS, literal_values
from groundup.recipe.recipe_file import all_knobs

SOURCE = {"name": "corpus", "kind": "text", "path": "*.txt"}


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"train": {"learing_rate": 1}}, "unknown knob train.learing_rate", "train.learning_rate"),
        ({"model": {"hiden_size": 1}}, "unknown knob model.hiden_size", "model.hidden_size"),
        ({"trane": {}}, "unknown knob trane", "train"),
        ({"finetune": {"sources": []}}, "unknown knob finetune.sources", "mean finetune.conversations?"),
        ({"reinforcement": {"num_generations": 4}}, "reinforcement.num_generations", "mean reinforcement.group_size?"),
        ({"preference": {"max_length": 4}}, "preference.max_length", "mean preference.sequence_length?"),
        ({"preference": {"lr": 4}}, "preference.lr", "mean preference.learning_rate?"),
        ({"finetune": {"group_size": 4}}, "finetune.group_size", "mean reinforcement.group_size?"),
        ({"finetune": {"conversations": [{**SOURCE, "kind": "sharegpt"}]}}, "'sharegpt'", 'mean "messages"? groundup'),
        ({"preference": {"sources": [], "loss": "sigmoid"}}, "'sigmoid'", 'did you mean "dpo"?'),
        ({"train": {"steps": -1}}, "train.steps = -1", "groundup explain train.steps"),
        ({"name": "a b"}, "name = 'a b': expected letters, digits, . _ and -, first a letter", "groundup explain name"),
        ({"train": {"lr_schedule": "wavy"}}, "train.lr_schedule = 'wavy'", "groundup explain train.lr_schedule"),
        ({"data": {"sources": [{**SOURCE, "kind": "wikpedia"}]}}, "'wikpedia'", "data.sources[].kind"),
        ({"data": {"sources": [{"name": "x", "kind": "text"}]}}, "needs a path or a package", "data.sources[]"),
        ({"data": {}}, "data.sources is missing", "data.sources"),
        ({"data": {"sources": []}}, "data.sources is empty", "data.sources"),
        ({"data": {"sources": [SOURCE, SOURCE]}}, "data.sources has two entries with name = 'corpus'", "data.sources"),
        ({"name": "../evil"}, "name = '../evil'", "name"),
    ],
)
def test_errors_name_the_knob(values, message, hint):
    with pytest.raises(UserError) as caught:
        parse_recipe({"name": "x", **values})
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_overrides():
    recipe = parse_recipe(
        {"name": "x", "train": {"steps": 5}},
        [
            "train.steps=50",
            "train.learning_rate=3e-4",
            "train.lr_schedule=linear",
            "seed=7",
            "model.qk_norm=true",
            "train.tokens=none",
        ],
    )
    assert recipe.train is not None
    assert (recipe.train.steps, recipe.train.learning_rate, recipe.train.lr_schedule) == (50, 3e-4, "linear")
    assert recipe.seed == 7
    assert recipe.model.qk_norm is True
    with pytest.raises(UserError, match="expected knob=value"):
        parse_recipe({"name": "x"}, ["train.steps"])
    with pytest.raises(UserError, match="name is not a table"):
        parse_recipe({"name": "x"}, ["name.first=1"])


def test_override_with_none():
    words = ["train.tokens=none", "machine.activation_checkpointing=none", "train.weight_averaging=none"]
    recipe = parse_recipe({"name": "x"}, words)
    assert recipe.train is not None
    assert recipe.train.tokens is None
    assert recipe.machine.activation_checkpointing == "none"
    assert recipe.train.weight_averaging == "none"


def test_recipe_name_from_the_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text("[train]\nsteps = 3\n")
    assert load_recipe(path).name == "tiny"
    path.write_text("[train\n")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(path)
    with pytest.raises(UserError, match="no such recipe file"):
        load_recipe(tmp_path / "none.toml")


@given(
    steps=st.integers(1, 10**9), rate=st.floats(1e-9, 1.0), seed=st.integers(0, 2**40), width=st.integers(1, 10**5),
    hours=st.none() | st.floats(0.001, 1e6),
)  # fmt: skip
def test_dump_and_parse_are_inverse(steps, rate, seed, width, hours):
    recipe = parse_recipe(
        {"name": "x", "seed": seed, "budget": {"hours": hours}, "data": {"sources": [SOURCE]},
         "train": {"steps": steps, "learning_rate": rate}, "model": {"hidden_size": width}}
    )  # fmt: skip
    assert Recipe.model_validate(recipe.model_dump(mode="json", exclude_none=True)) == recipe


def test_every_knob_has_a_meaning():
    rows = knob_table()
    assert len(rows) > 60
    assert [name for name, _, _, meaning in rows if not meaning] == []
    assert "peak learning rate" in explain_knob("train.learning_rate")
    with pytest.raises(UserError) as caught:
        explain_knob("train.learnig_rate")
    assert "train.learning_rate" in (caught.value.hint or "")
    assert "properties" in json_schema()


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("train.steps", "derived: tokens / batch_tokens"),
        ("train.max_grad_norm", "1.0"),
        ("machine.trackers", "tensorboard, if installed"),
        ("model.num_kv_heads", "derived: num_heads"),
        ("model.norm", "rmsnorm"),
        ("data.language", "see its knobs"),
    ],
)
def test_explain_shows_what_an_unset_knob_becomes(name, default):
    assert f"default: {default}" in explain_knob(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("finetune.prompts", 'default: ["Hello", "What is AI?"]'),
        ("model.hidden_size", "type:    whole number (≥ 1)"),
        ("train.mix", "type:    table of number by name"),
        ("data.sources.name", "type:    text (lower-case letters, digits, _ and -"),
        ("model.tie_embeddings", "default: false"),
    ],
)
def test_explain_speaks_toml_and_shows_bounds(name: str, words: str):
    assert words in explain_knob(name)


def test_every_default_is_explained():
    assert [name for name, _, default, _ in knob_table() if default in ("", "None")] == []


def test_recipe_view_refuses_undeclared_sections():
    view = RecipeView(parse_recipe({"name": "x", "train": {"steps": 3}}), ("train", "seed"))
    assert (view.train.steps, view.seed) == (3, 1337)
    with pytest.raises(AttributeError, match="add 'data' to its sections"):
        _ = view.data


def test_recipe_view_has_all_sections():
    assert set(RecipeView.__annotations__) == set(Recipe.model_fields) - {"machine"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"num_heads": 3}, "hidden_size = 64 is not divisible by num_heads = 3"),
        ({"num_kv_heads": 3}, "num_heads = 4 is not divisible by num_kv_heads = 3"),
        ({"num_kv_heads": 0}, "num_kv_heads = 0: expected greater than or equal to 1"),
        ({"head_dim": 7}, "head_dim = 7 is odd"),
    ],
)
def test_model_errors_name_the_knob(model, message):
    with pytest.raises(UserError) as caught:
        build_model_config({"vocab_size": 8, "hidden_size": 64, "num_layers": 1, "num_heads": 4} | model)
    assert message in caught.value.message
    assert f"model.{message.split()[0]}" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "path",
    [
        "https://me:secret@example.org/a.txt", "https://secret@example.org/a.txt", "sftp://me:secret@host/a.txt",
        "https://example.org/a.txt?token=secret", "https://b.s3.amazonaws.com/a?X-Amz-Date=1&X-Amz-Signature=secret",
        "https://a.blob.core.windows.net/c/a?sv=1&sig=secret", "s3://b/a?api_key=secret",
    ],
)  # fmt: skip
def test_password_in_an_address_is_refused_and_not_printed(path):
    values = {"name": "x", "data": {"sources": [{"name": "a", "kind": "text", "path": path}]}}
    with pytest.raises(UserError, match=r"data\.sources\[0\]\.path has a password") as caught:
        parse_recipe(values)
    assert "secret" not in str(caught.value)


REACH = ("data/", "https://example.org/corpus", "s3://bucket")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("data/a.txt", True), ("data/**/*.txt", True), ("./data", True), ("data", True), ("/etc/passwd", False),
        ("data/../secret.txt", False), ("data/*/../../secret.txt", False), ("database/a.txt", False), ("~/.ssh/id", False),
        ("*.txt", False), ("file:///etc/passwd", False), ("https://example.org/corpus/a.txt", True),
        ("https://example.org/corpus", True), ("https://example.org/corpus-2/a", False), ("http://example.org/corpus/a", False),
        ("https://example.org/corpus/../a", False), ("https://example.org/corpus/%2e%2e/a", False),
        ("https://example.org.evil/corpus/a", False), ("http://169.254.169.254/latest/meta-data", False),
        ("http://localhost:8000/", False), ("s3://bucket/a", True), ("s3://bucket-2/a", False),
        ("simplecache::file:///etc/passwd", False), ("commoncrawl://CC-MAIN-2024-10/warc", False),
    ],
)  # fmt: skip
def test_reach_of_a_recipe_is_limited(location: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_allowed(location, REACH) is expected
    tables = [
        {"data": {"sources": [{"name": "a", "kind": "text", "path": location}]}},
        {"data": {"sources": [{"name": "a", "kind": "text", "path": "data"}], "word_lists": [{"name": "w", "path": location}]}},
        {"tokenizer": {"pretrained": location}}, {"tokenizer": {"compare": {"a": location}}},
        {"train": {"token_shards": location}}, {"evaluate": {"tasks": [{"name": "t", "kind": "completion", "path": location}]}},
        {"finetune": {"conversations": [{"name": "a", "kind": "messages", "path": location}]}},
    ]  # fmt: skip
    for table in tables:
        values = {"name": "x", "machine": {"allowed_inputs": REACH}, **table}
        if expected:
            parse_recipe(values)
        else:
            with pytest.raises(UserError, match=r"which machine\.allowed_inputs does not"):
                parse_recipe(values)


def test_link_out_of_an_allowed_folder_is_refused(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/out").symlink_to("/etc")
    assert not is_allowed(f"{tmp_path}/data/out/passwd", (f"{tmp_path}/data",))


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000])
def test_deep_toml_and_long_numbers_are_one_line(tmp_path, value):
    path = tmp_path / "deep.toml"
    path.write_text(f"a = {value}")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(path)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value):
    with pytest.raises(UserError, match=r"train\.learning_rate = .*: expected a finite number"):
        parse_recipe({"name": "x", "train": {"learning_rate": value}})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"method": "full", "lora_dora": True}, "lora_dora = true has no effect, expected method = lora"),
        ({"optimizer": "muon", "lora_plus_ratio": 16}, "lora_plus_ratio = 16 with optimizer = muon"),
        ({"method": "full", "lora_rank": 8}, "lora_rank = 8 has no effect"),
        ({"teacher_weight": 0.9}, "teacher_weight = 0.9 has no effect, expected a teacher"),
        ({"temperature": 0.1}, "temperature = 0.1 has no effect, expected task = embedding"),
        ({"task": "embedding", "conversations": [], "long_conversations": "drop"}, "expected task = generation"),
        ({"conversations": [{**SOURCE, "kind": "messages", "topics": ["a"]}]}, "expected kind = chatterbot"),
        ({"conversations": [{**SOURCE, "kind": "gettext", "columns": {"prompt": "q"}}]}, "expected kind = messages"),
    ],
)
def test_knobs_without_effect(knobs, message):
    source = {"name": "a", "kind": "messages", "path": "a.jsonl"}
    with pytest.raises(UserError, match=message):
        parse_recipe({"name": "a", "finetune": {"conversations": [source], **knobs}})


def test_reward_knobs_without_effect():
    for knobs, message in (
        ({"clip_range": 0.3}, r"clip_range = 0\.3 has no effect, expected updates_per_rollout above 1"),
        ({"rewards": [{"kind": "answer", "timeout_seconds": 1.0}]}, r"timeout_seconds = 1\.0 has no effect"),
    ):
        with pytest.raises(UserError, match=message):
            parse_recipe({"name": "a", "reinforcement": {"sources": [{"name": "a", "path": "a"}], **knobs}})


def test_words_of_the_field_are_explained():
    known = all_knobs()
    assert not {knob for knobs in KNOBS_OF_WORDS.values() for knob in knobs} - known.keys()
    values = {value for field in known.values() for value in literal_values(field.annotation)}
    assert not set(VALUES_OF_WORDS.values()) - values
    for word, knob in (
        ("dpo", "preference.loss"), ("GRPO", "reinforcement.loss"), ("qlora", "finetune.method"), ("sft", "finetune"),
        ("rlhf", "preference"), ("reward-model", "preference.loss"), ("num_generations", "reinforcement.group_size"),
        ("sharegpt", "finetune.conversations[].kind"),
    ):  # fmt: skip
        assert f"\n{knob}: " in explain_knob(word)


def test_later_tables_share_the_prompts():
    source = {"name": "a", "kind": "messages", "path": "a.jsonl"}
    pairs = {"sources": [{"name": "a", "path": "a.jsonl"}]}
    tables = {"finetune": {"conversations": [source], "prompts": ["Why?"]}, "preference": pairs, "reinforcement": pairs}
    recipe = parse_recipe({"name": "a", **tables})
    assert recipe.preference is not None
    assert recipe.reinforcement is not None
    assert recipe.preference.prompts == recipe.reinforcement.prompts == ("Why?",)
    scoring = parse_recipe({"name": "a", **tables, "preference": {**pairs, "loss": "reward"}}).preference
    assert scoring is not None
    assert scoring.prompts != ("Why?",)
