"""`groundup init`: what it understands of the data, and recipes that plan without an edit."""

import json
import os
import tomllib
from pathlib import Path

import pyarrow.parquet
import pytest
import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.cli import init_command
from groundup.cli.init_data import look_at_data
from groundup.cli.init_session import this_machine
from groundup.data.dedup_estimate import estimate_file_bytes
from groundup.data.document_reader import read_spec
from groundup.data.readers.reader_options import ReaderOptions
from groundup.finetune.training_data.conversations import read_conversations
from groundup.plan import derive
from groundup.plan.checks.stage_support import check_stages
from groundup.plan.init.init_model_recipe import model_recipe_toml
from groundup.plan.init.init_recipe import GOAL_MEANINGS, GOALS, RecipeData, recipe_toml, vocabulary_size
from groundup.recipe import load_recipe, parse_recipe
from groundup.tokenizer import train_tokenizer
from groundup.train.speed_calibration import Calibration

PROSE = json.loads((Path(__file__).parents[1] / "data" / "prose.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of German texts, as the current folder's `texte`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texte").mkdir()
    for number in range(30):
        (tmp_path / "texte" / f"{number}.txt").write_text(f"{PROSE['de']}\n\nKapitel {number}.", encoding="utf-8")
    return tmp_path


@pytest.fixture(autouse=True)
def measured_speed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The measured speed of this machine, relative to its device."""
    speed = [1.05]
    monkeypatch.setattr("groundup.train.speed_calibration.calibrate_speed", lambda *_: Calibration(1.0, speed[0]))
    return speed


def init(**answers) -> None:
    defaults = dict.fromkeys(("out", "recipe", "goal", "data", "chat", "model", "hardware", "hours"))
    init_command.init(**{**defaults, "devices": 1, "yes": True, **answers})


def write_conversations(path: Path, question: str, answer: str) -> None:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    path.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n", encoding="utf-8")


def test_german_texts(folder: Path, capsys: pytest.CaptureFixture[str]):
    init(data=["texte"], hours="0.05")
    out = capsys.readouterr().out
    assert out.startswith("30 German texts in 30 files, 13 kB, about 3,")
    assert "\ntime: about " in out, "of all stages, not only of pretraining"
    assert out.endswith("wrote texte-base.toml\nnext: groundup plan texte-base.toml\n")
    recipe = load_recipe("texte-base.toml")
    assert recipe.name == "texte-base"
    assert recipe.data is not None
    assert not recipe.data.language.languages, "texts whose language is not recognized stay"
    assert [(source.name, source.kind, source.path) for source in recipe.data.sources] == [("texte", "auto", "texte")]
    with pytest.raises(UserError, match=r"texte-base\.toml exists"):
        init(data=["texte"])


def test_no_chat_without_conversations_in_the_language(folder: Path):
    with pytest.raises(UserError, match="--goal chat: no conversations in de"):
        init(data=["texte"], goal="chat")
    write_conversations(
        folder / "texte" / "english.jsonl", "Where is the mill?", "The mill stands by the road to the hills."
    )
    with pytest.raises(UserError, match="no conversations in de"):
        init(data=["texte"], goal="chat")
    write_conversations(
        folder / "texte" / "deutsch.jsonl", "Wo steht die Mühle?", "Die alte Mühle steht an der Straße im Dorf."
    )
    (folder / "texte" / "english.jsonl").unlink()
    init(data=["texte"], goal="chat")
    recipe = load_recipe("texte-chat.toml")
    assert recipe.finetune is not None
    assert [source.path for source in recipe.finetune.conversations] == ["texte/deutsch.jsonl"]
    assert recipe.finetune.prompts == ("Wo steht die Mühle?",)


def test_conversations_alone(folder: Path, capsys: pytest.CaptureFixture[str]):
    lines = []
    for number in range(200):
        turns = [
            {"role": "user", "content": f"Wo steht Haus {number}?"},
            {"role": "assistant", "content": PROSE["de"][number:]},
        ]
        lines.append(json.dumps({"messages": turns}))
    (folder / "talk.jsonl").write_text("\n".join(lines))
    init(data=["talk.jsonl"], hours="0.05")
    assert "only conversations: they are the text of pretraining, too" in capsys.readouterr().out
    recipe = load_recipe("talk-chat-4bit.toml")
    assert recipe.finetune is not None
    assert recipe.data is not None
    (source,) = recipe.data.sources
    assert next(document.text for document in read_spec(source, ReaderOptions(source.text_column), Machine())) == (
        f"Wo steht Haus 0?\n\n{PROSE['de']}"
    )
    init(data=["texte", "talk.jsonl"], hours="0.05")
    assert capsys.readouterr().out.startswith("30 German texts in 30 files")
    recipe = load_recipe("texte-chat-4bit.toml")
    assert recipe.data is not None
    assert [source.name for source in recipe.data.sources] == ["texte"]


def test_what_is_found_is_told(folder: Path, capsys: pytest.CaptureFixture[str]):
    files = folder / "mixed"
    files.mkdir()
    (files / "empty.txt").touch()
    (files / "image.png").write_bytes(bytes(range(256)))
    for number in range(3):
        (files / f"same{number}.txt").write_text(PROSE["fi"])
    (files / "old.txt").write_bytes(PROSE["de"].encode("cp1252"))
    (files / "long.md").write_text("\n\n".join(f"{number} {PROSE['vi']}" for number in range(3000)))
    init(data=["mixed"], hours="0.05", goal="base")
    out = capsys.readouterr().out
    assert out.startswith("5 Vietnamese texts, the longest in parts (10 documents), 1.5 MB, about"), out
    assert "encodings other than UTF-8: 1 cp1252\n" in out
    assert "files without text: 1 empty, 1 of no known kind" in out
    assert "exact duplicates: " in out


def test_prompts_are_of_the_kind_that_most_files_have(folder: Path):
    site = folder / "site"
    site.mkdir()
    (site / "a.css").write_text("h1 { margin: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 ; }\n")
    for number in range(3):
        (site / f"{number}.html").write_text(f"<html><p>Kapitel {number}. {' '.join(PROSE.values())}</p></html>")
    init(data=["site"], hours="0.05", goal="base")
    recipe = load_recipe("site-base.toml")
    assert recipe.evaluate is not None
    assert recipe.evaluate.prompts
    assert all(prompt.startswith("Kapitel") for prompt in recipe.evaluate.prompts)


def test_files_that_hold_no_text(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "texte" / "ls.1").write_text(".TH LS 1\n.SH NAME\nls \\- list directory contents\n")
    (folder / "texte" / "blob.txt").write_text("QUJDRA" * 200)
    (folder / "texte" / "settings.json").write_text('{"port": 80, "hosts": [1, 2]}')
    os.mkfifo(folder / "texte" / "pipe.txt")
    (folder / "texte" / "loop").symlink_to(folder / "texte")
    (folder / "texte" / "gone.txt").symlink_to("nowhere")
    (folder / "texte" / "odd\nname \udcff.txt").write_text(PROSE["de"] + " Ende")
    init(data=["texte"], hours="0.05")
    captured = capsys.readouterr()
    assert captured.out.startswith("31 German texts in 31 files"), captured.out
    assert (
        "files without text: 1 base64, hexadecimal digits or others without words, 1 manual pages with" in captured.out
    )
    assert "records without text: 1 the column of the text is missing" in captured.out
    assert captured.err.startswith("looking at files: 34 files in 0:"), "the look may take long, so progress is shown"


def test_survey_reads_a_bounded_part_of_a_long_text(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder of manuals took minutes: whole books went through every filter."""
    lengths: list[int] = []
    monkeypatch.setattr(
        "groundup.data.survey.clean_document", lambda document, _: lengths.append(len(document.text)) or document
    )
    (folder / "book.txt").write_text(PROSE["de"] * 3000)
    found = look_at_data(["book.txt"], None)
    assert set(lengths) == {20_000}
    assert found.data.text_bytes > 1_000_000


def test_repeated_text_is_trained_with_more_weight_decay(folder: Path):
    init(data=["texte"], hours="1")
    assert load_recipe("texte-base.toml").train.weight_decay == 1.0  # type: ignore[union-attr]
    init(data=["texte"], hours="1e-5", out=Path("short.toml"))
    assert load_recipe("short.toml").train.weight_decay == 0.1  # type: ignore[union-attr]


def test_no_english_chat_for_text_in_another_language(folder: Path):
    for number in range(5):
        (folder / "texte" / f"en{number}.txt").write_text("This is an English text about the weather and the sea. " * 4)
    init(data=["texte"], hours="0.05")
    assert load_recipe("texte-base.toml").finetune is None
    with pytest.raises(UserError, match="no conversations in de, en"):
        init(data=["texte"], goal="chat")
    assert GOAL_MEANINGS.keys() == GOALS.keys()


def test_a_table_of_short_texts_keeps_them(folder: Path, capsys: pytest.CaptureFixture[str]):
    """The filters for pages drop texts below 50 words."""
    rows = [f"{n};Ich habe {n} Stück davon gekauft, sie sind schön.;gut" for n in range(900)]
    (folder / "reviews.csv").write_text("\n".join(["id;text;label", *rows]), encoding="utf-8")
    init(data=["reviews.csv"], goal="base", hours="0.05")
    printed = capsys.readouterr().out
    assert "short texts in reviews: without filters and masking, deduplicated only" in printed
    assert "the filters drop" not in printed
    recipe = load_recipe("reviews-base.toml")
    assert recipe.data is not None
    assert [source.clean for source in recipe.data.sources] == [False]


def test_conversations_in_parquet(folder: Path, capsys: pytest.CaptureFixture[str]):
    turns = [
        [{"role": "user", "content": f"Wo steht Haus {n}?"}, {"role": "assistant", "content": PROSE["de"][n:]}]
        for n in range(200)
    ]
    (folder / "talk").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"messages": turns}), folder / "talk" / "talk.parquet")
    init(data=["talk"], goal="chat", hours="0.05")
    assert "only conversations: they are the text of pretraining, too" in capsys.readouterr().out
    recipe = load_recipe("talk-chat.toml")
    assert recipe.finetune is not None
    assert recipe.data is not None
    (source,), (text,) = recipe.finetune.conversations, recipe.data.sources
    assert recipe.finetune.prompts == ("Wo steht Haus 0?", "Wo steht Haus 1?")
    assert next(read_spec(text, ReaderOptions(text.text_column), Machine())).text.startswith("Wo steht Haus 0?\n\n")
    conversations, _ = read_conversations([source], Machine())
    assert (len(conversations), conversations[0].opening) == (200, "Wo steht Haus 0?")
    init(data=["texte"], goal="chat", chat=["talk/talk.parquet"], hours="0.05")
    (folder / "talk" / "talk.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(UserError, match=r"talk.parquet: damaged table"):
        read_conversations([source], Machine())


@pytest.mark.parametrize(("hours", "method"), [(0.01, "full"), (10.0, "lora")])
def test_small_models_learn_their_answers_with_all_weights(hours: float, method: str):
    text, _ = recipe_toml("chat", RecipeData(), "cpu-2", 1, hours, "x")
    assert tomllib.loads(text)["finetune"].get("method", "lora") == method


@pytest.mark.parametrize("goal", GOALS)
def test_every_goal_gives_a_recipe_that_plans(goal: str, folder: Path):
    write_conversations(folder / "pairs.jsonl", "Guten Tag", "Good day")
    if goal == "classify":
        (folder / "pairs.jsonl").write_text('{"text": "Guten Tag", "label": "greeting"}\n')
    chat = None if goal in ("base", "code", "encoder", "search") else ["pairs.jsonl"]
    init(data=["texte", "texte/*.txt"], goal=goal, chat=chat, hours="0.1", out=Path("my recipe.toml"))
    recipe = load_recipe("my recipe.toml")
    assert (recipe.name, [source.name for source in recipe.data.sources[:2]]) == ("my-recipe", ["texte", "texte-2"])  # type: ignore[union-attr]
    plan = derive(recipe, 50_000)
    assert plan.parameters is not None
    check_stages(plan.recipe)


def test_a_translator_learns_both_languages_from_its_pairs(folder: Path):
    """Text of the target language alone would leave the other one without tokens; pairs held out stay out of the text."""
    (folder / "po").mkdir()
    for name, count in (("a", 300), ("b", 100)):
        entries = "".join(
            f'#: somewhere/in/a/program.py:{n}\nmsgid "{name} file {n}"\nmsgstr "{name}-Datei {n}"\n\n'
            for n in range(count)
        )
        (folder / "po" / f"{name}.po").write_text(entries)
    init(goal="translate", chat=["po/a.po", "po/b.po"], hours="0.01", out=Path("both.toml"))
    init(goal="translate", chat=["po/b.po"], data=["texte"], hours="0.01", out=Path("one.toml"))
    both, one = load_recipe("both.toml"), load_recipe("one.toml")
    assert both.data is not None
    assert one.data is not None
    assert [(each.kind, each.path) for each in both.data.sources] == [("gettext", "po/*.po")]
    assert [(each.kind, each.path) for each in one.data.sources] == [("auto", "texte"), ("gettext", "po/b.po")]
    assert both.finetune is not None
    assert [each.path for each in both.finetune.conversations] == ["po/*.po"]
    assert both.finetune.prompts == ("a file 0", "a file 1")
    plan = derive(both, 5_000)
    assert plan.recipe.data is not None
    assert plan.recipe.data.held_out_conversations == both.finetune.validation_fraction
    assert plan.recipe.model.hidden_size >= 128
    text = sum(
        len(f"{name} file {n}{name}-Datei {n}") for name, count in (("a", 300), ("b", 100)) for n in range(count)
    )
    assert estimate_file_bytes(both.data.sources[0], Machine()) == text, "without comments"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"goal": "world-peace"}, "--goal world-peace: unknown goal"),
        ({"hours": "0"}, "--hours 0: expected a number above 0"),
        ({"plan": "cheap"}, "--plan cheap: unknown plan"),
        ({"plan": "best"}, "--plan best: no money is given"),
        ({"money": "-5"}, "--money -5: expected a number of USD"),
        ({"hours": "soon"}, "--hours soon: expected a number above 0"),
        ({"hardware": "abacus"}, "--hardware abacus: unknown device"),
        ({"data": ["missing/*.txt"]}, "source missing: no file matches"),
        ({"data": ["nothing"]}, "source nothing: no file in the folder nothing"),
        ({"data": ["pipe"]}, "source pipe: pipe is neither a file nor a folder"),
        ({"data": ["texte/**.txt"]}, "'**' can only be an entire path component"),
        ({"data": ["empty.txt"]}, "--data empty.txt: no text in 1 file"),
        ({"data": ["short.txt"]}, "--data short.txt: 100 tokens of text in 1 file"),
        ({"goal": "translate"}, "--goal translate: no text pairs"),
        ({"chat": ["none.jsonl"]}, "--chat none.jsonl: no such file"),
        ({"goal": "search", "chat": ["talk.jsonl"]}, "--chat talk.jsonl: nothing for --goal search in it"),
        ({"goal": "classify", "chat": ["talk.jsonl"]}, "--chat talk.jsonl: nothing for --goal classify in it"),
        ({"goal": "chat", "chat": ["texte/1.txt"]}, "--chat texte/1.txt: nothing for --goal chat in it"),
        ({"goal": "base", "chat": ["talk.jsonl"]}, "--chat talk.jsonl: --goal base learns from no examples"),
        ({"goal": "quantize", "model": "none"}, "--goal quantize: no model at --model none"),
        ({"goal": "base", "model": "texte"}, "--model with --goal base"),
        ({"goal": "finetune", "model": "texte"}, "--goal finetune: no conversations"),
        ({"goal": "evaluate", "model": "texte"}, "--goal evaluate: 0 texts, expected one"),
        ({"goal": "chat", "chat": ["empty.txt"]}, "--chat empty.txt: an empty file"),
        ({"goal": "preferences", "model": "texte"}, "--goal preferences: no preferences"),
        ({"goal": "rewards", "model": "texte"}, "--goal rewards: no problems"),
        ({"goal": "finetune", "model": "texte", "chat": ["pairs.jsonl"]}, "pairs of a chosen and a rejected answer"),
    ],
)
def test_wrong_answers_are_one_line(answers: dict, message: str, folder: Path):  # type: ignore[type-arg]
    (folder / "empty.txt").touch()
    (folder / "nothing").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "short.txt").write_text(PROSE["de"], encoding="utf-8")
    write_conversations(folder / "talk.jsonl", "Guten Tag", "Good day")
    (folder / "pairs.jsonl").write_text('{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}\n')
    with pytest.raises(UserError) as caught:
        init(**({"data": ["texte"]} if "chat" in answers else {}), **answers)
    assert message in caught.value.message
    assert not list(folder.glob("*.toml"))


def test_recipes_for_a_model_that_exists(folder: Path, capsys: pytest.CaptureFixture[str]):
    """tests/end_to_end/test_existing_model.py runs such recipes, and one of fine-tuning."""
    (folder / "model").mkdir()
    config = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 300}
    (folder / "model" / "model.json").write_text(json.dumps(config))
    init(goal="quantize", model="model")
    init(goal="evaluate", model="model", data=["texte/1.txt"])
    assert capsys.readouterr().out.endswith("wrote model-evaluate.toml\nnext: groundup plan model-evaluate.toml\n")
    quantize, evaluate = load_recipe("model-quantize.toml"), load_recipe("model-evaluate.toml")
    assert quantize.base is not None
    assert quantize.base.model == "model"
    assert quantize.quantize is not None
    assert quantize.data is None
    assert evaluate.evaluate is not None
    assert evaluate.evaluate.text == "texte/1.txt"


@pytest.mark.parametrize(
    ("goal", "record", "expected"),
    [
        ("preferences", {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, 'loss = "dpo"'),
        ("preferences", {"prompt": "Hi", "completion": "Hello", "label": True}, 'loss = "kto"'),
        ("rewards", {"prompt": "2+3=", "answer": "5"}, 'kind = "answer"'),
        ("rewards", {"text": "Write f.", "test_list": ["assert f(1)"]}, 'kind = "tests"'),
    ],
)
def test_recipes_for_preferences_and_rewards(goal: str, record: dict, expected: str, folder: Path):  # type: ignore[type-arg]
    data = RecipeData(conversations=["file.jsonl"])
    (folder / "file.jsonl").write_text(json.dumps(record) + "\n")
    text = model_recipe_toml(goal, "model", [], data, "cpu-2", "x")
    assert expected in text
    recipe = parse_recipe(tomllib.loads(text))
    section = recipe.preference or recipe.reinforcement
    assert section is not None
    assert section.sources[0].path == "file.jsonl"


def test_a_wrong_answer_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    typed = iter(["texts", "texte", "chat", "base", "much", "0", "abacus", "cpu-2", "-1", "0.1"])
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: next(typed))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    init(yes=False)
    captured = capsys.readouterr()
    for words in (
        "a base model that then learns to answer",
        "16 GB, 0.4 TFLOP/s",
        "no file matches texts",
        "no conversations in de",
        "unknown device",
        "--money much: expected a number of USD",
        "expected a number above 0",
    ):
        assert words in captured.err
    assert tomllib.loads(Path("texte-base.toml").read_text(encoding="utf-8"))["budget"]["hours"] == 0.1


def test_vocabulary_that_the_text_supports(prose_text: str):
    """A tokenizer of the chosen size can be trained on half of the text, which filters and held-out text may leave."""
    size = vocabulary_size(len(prose_text), 4096)
    assert size >= 300
    assert train_tokenizer([prose_text[: len(prose_text) // 2]], size).vocab_size == size
    assert vocabulary_size(1e9, 32_000) == 32_000


@pytest.fixture
def prose_text() -> str:
    return (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_speed_of_this_machine_is_written_and_planned_with(
    folder: Path, measured_speed: list[float], capsys: pytest.CaptureFixture[str]
):
    init(data=["texte"], hours="0.05", out=Path("equal.toml"))
    measured_speed[0] = 0.5
    init(data=["texte"], hours="0.05", out=Path("slow.toml"))
    hardware = this_machine()
    assert f"measured: this machine trains at 0.5 times the speed of {hardware}\n" in capsys.readouterr().out
    equal, slow = (load_recipe(name) for name in ("equal.toml", "slow.toml"))
    assert (equal.budget.relative_speed, slow.budget.relative_speed) == (1.0, 0.5)
    assert derive(slow).total_flops < 0.6 * derive(equal).total_flops
    init(data=["texte"], hours="0.05", out=Path("other.toml"), hardware="h100")
    assert load_recipe("other.toml").budget.relative_speed == 1.0


def test_search_takes_pairs_and_else_the_text_itself(folder: Path):
    init(data=["texte"], goal="search", hours="0.05")
    recipe = load_recipe("texte-search.toml")
    assert recipe.finetune is not None
    assert (recipe.model.architecture, recipe.finetune.task, recipe.finetune.examples) == ("encoder", "embedding", ())
    assert recipe.train is not None
    assert (recipe.train.steps, recipe.finetune.epochs) == (1, 3.0), "a CPU's hours are too few for pretraining"
    init(data=["texte"], goal="search", hours="1e-4", out=Path("short.toml"))
    short = load_recipe("short.toml").finetune
    assert short is not None
    assert 0.05 <= (short.epochs or 0) < 3.0, "the budget is that of the training for search"
    init(data=["texte"], goal="search", hours="1", hardware="h100", out=Path("gpu.toml"))
    assert load_recipe("gpu.toml").train.steps is None  # type: ignore[union-attr]
    (folder / "pairs.jsonl").write_text('{"query": "Wo?", "text": "Hier."}\n')
    init(data=["texte"], goal="search", chat=["pairs.jsonl"], hours="0.05", out=Path("pairs.toml"))
    tuned = load_recipe("pairs.toml").finetune
    assert tuned is not None
    assert [(source.kind, source.path) for source in tuned.examples] == [("pairs", "pairs.jsonl")]


@pytest.mark.parametrize("shape", ["sharegpt.json", "faq.csv"])
def test_conversations_are_read_before_anything_is_built(shape: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    turns = [[{"from": "human", "value": f"Frage {n}?"}, {"from": "gpt", "value": f"Antwort {n}."}] for n in range(9)]
    table = "question;answer\n" + "".join(f"{asked['value']};{answered['value']}\n" for asked, answered in turns)
    records = [{"id": str(n), "conversations": turn} for n, turn in enumerate(turns)]
    (folder / shape).write_text(table if shape.endswith(".csv") else json.dumps(records, indent=1))
    init(data=["texte"], goal="chat", chat=[shape], hours="0.05")
    assert "for fine-tuning: 9 read, 9 kept" in capsys.readouterr().out
    (folder / shape).write_text("frage;antwort\na;b\n" if shape.endswith(".csv") else "[]")
    with pytest.raises(UserError, match="no conversations in"):
        check_stages(derive(load_recipe("texte-chat.toml")).recipe)
    with pytest.raises(UserError, match="nothing for --goal chat in it"):
        init(data=["texte"], goal="chat", chat=[shape], hours="0.05", out=Path("other.toml"))


def test_classify_needs_labels(folder: Path):
    with pytest.raises(UserError, match="--goal classify: no labelled texts") as raised:
        init(data=["texte"], goal="classify", hours="0.05")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("--chat PATH names them")
    lines = [{"text": f"{PROSE['de']} {n}", "label": n % 2} for n in range(30)]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "stars.csv").write_text("review;stars\nfine;5\n")
    with pytest.raises(UserError) as raised:
        init(data=["texte"], goal="classify", chat=["stars.csv"], hours="0.05")
    assert raised.value.hint is not None
    assert raised.value.hint.endswith("stars.csv has review, stars")
    for label in ("gut", "schlecht"):
        (folder / "nach" / label).mkdir(parents=True)
        (folder / "nach" / label / "1.txt").write_text("Text")
    for answers, kind in (({"data": ["labels.jsonl"]}, "labels"), ({"data": ["texte"], "chat": ["nach"]}, "folders")):
        init(goal="classify", hours="0.05", out=Path(f"{kind}.toml"), **answers)
        recipe = load_recipe(f"{kind}.toml")
        assert recipe.finetune is not None
        assert (recipe.finetune.task, recipe.finetune.method) == ("classification", "full")
        assert [source.kind for source in recipe.finetune.examples] == [kind]
