"""Plans side by side, and the form of `groundup init --form`."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from groundup.artifacts.errors import UserError
from groundup.cli.init_command import init
from groundup.cli.init_form import InitForm
from groundup.plan.cost.run_cost import load_prices
from groundup.plan.hardware import DEVICES
from groundup.plan.init.init_offers import BudgetAnswers, default_offer, format_offers, make_offers, plan_offers
from groundup.plan.init.init_recipe import RecipeData
from groundup.recipe import load_recipe
from groundup.train.speed_calibration import Calibration
from groundup.viewers.form_server import MAX_BODY_BYTES, create_form_app

PROSE = json.loads((Path(__file__).parents[1] / "data" / "prose.json").read_text(encoding="utf-8"))["de"]
KEY = "a-key"
ASKING = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("groundup.train.speed_calibration.calibrate_speed", lambda *_: Calibration(1.0, 1.0))
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"{PROSE}\n\nChapter {number}.", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("budget", "names"),
    [
        (BudgetAnswers(), ["small", "good"]),
        (BudgetAnswers(hours=4), ["small", "good"]),
        (BudgetAnswers(hardware="rtx-4090"), ["small", "good"]),
        (BudgetAnswers(money=100), ["small", "good", "best"]),
        (BudgetAnswers(money=100, hours=4), ["small", "good", "best"]),
        (BudgetAnswers(money=100, hardware="a100"), ["small", "good", "best"]),
        (BudgetAnswers(money=100, hardware="a100", devices=4, hours=2), ["small", "good", "best"]),
    ],
)
def test_any_combination_of_money_hardware_and_time_has_offers_within_it(budget: BudgetAnswers, names: list[str]):
    offers = make_offers(budget, "cpu-2")
    assert [offer.name for offer in offers] == names
    assert default_offer(budget) in names
    for offer in offers:
        assert offer.hours <= (budget.hours or 168)
        assert budget.hardware in (None, offer.hardware)
        assert budget.devices in (None, offer.devices)
        if budget.money and offer.hardware in load_prices()["per_hour"]:
            spent = load_prices()["per_hour"][offer.hardware]["price"] * offer.devices * offer.hours
            assert spent <= budget.money * 1.0001
        assert budget.devices or offer.devices <= DEVICES[offer.hardware].devices_per_machine
    plans, _ = plan_offers("base", RecipeData(), offers, "x")
    assert budget.money is None or all(offered.cost.total <= budget.money for offered in plans)
    losses = [offered.loss["loss"] for offered in plans]
    assert losses[1] < losses[0]
    assert min(losses) == losses[-1] or budget.hardware, "what the money buys is the best"


def test_offers_that_the_text_makes_equal_are_shown_once():
    data = RecipeData(tokens=40_000, text_bytes=160_000)
    plans, _ = plan_offers("base", data, make_offers(BudgetAnswers(hours=8), "cpu-2"), "x")
    assert [offered.offer.name for offered in plans] == ["good"]
    assert "all the text" in format_offers(plans)


def test_devices_that_buy_nothing_are_not_offered():
    data = RecipeData(tokens=40_000, text_bytes=160_000)
    plans, left_out = plan_offers("base", data, make_offers(BudgetAnswers(money=20), "cpu-2"), "x")
    assert [offered.offer.name for offered in plans] == ["good"]
    assert "no better than the good plan" in left_out[0]


def test_every_question_has_a_flag_and_a_default(folder: Path):
    flags = inspect.signature(init).parameters
    questions = InitForm({}, None, None).questions()["questions"]
    assert {question["name"] for question in questions} <= set(flags)
    init(goal="base", yes=True, out=Path("default.toml"))
    assert load_recipe("default.toml").budget.hours == 1.0


def test_money_buys_the_best_plan(folder: Path, capsys: pytest.CaptureFixture[str]):
    init(goal="base", money="20", hardware="rtx-4090", yes=True, out=Path("best.toml"))
    recipe = load_recipe("best.toml")
    assert (recipe.budget.hardware, recipe.budget.hours) == ("rtx-4090", pytest.approx(20 / 0.39, rel=0.02))
    out = capsys.readouterr().out
    assert "small" in out
    assert "expected loss" in out
    assert "\nplan: best\n" in out
    init(goal="base", money="20", hardware="rtx-4090", plan="small", yes=True, out=Path("small.toml"))
    assert load_recipe("small.toml").budget.hours == 1.0


def test_form_asks_plans_and_writes(folder: Path):
    with TestClient(
        create_form_app(InitForm({"goal": "base"}, None, None), KEY), base_url="http://127.0.0.1"
    ) as client:
        page = client.get("/")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("http-equiv", "")
        assert all(client.get(f"/{name}").status_code == 200 for name in ("form.js", "form.css"))
        asked = {
            question["name"]: question for question in client.get("/questions", headers=ASKING).json()["questions"]
        }
        assert asked["goal"]["default"] == "base"
        assert asked["hardware"]["default"] in asked["hardware"]["choices"]
        answers = {"data": "texts\n", "goal": "base", "hours": "0.1", "money": "", "devices": ""}
        plans = client.post("/plans", json=answers, headers=ASKING).json()
        assert plans["lines"][0].startswith("30 German texts in 30 files")
        assert plans["chosen"] in [each["name"] for each in plans["plans"]]
        assert {"hardware", "time", "cost", "parameters", "tokens", "expected loss"} == set(plans["plans"][0]["rows"])
        wrong = client.post("/plans", json=answers | {"hours": "soon"}, headers=ASKING)
        assert (wrong.status_code, wrong.json()["error"].startswith("--hours soon")) == (400, True)
        assert client.post("/plans", json=answers | {"devices": "-1"}, headers=ASKING).status_code == 400
        written = client.post("/recipe", json=answers | {"plan": plans["chosen"]}, headers=ASKING).json()
        assert load_recipe(written["path"]).name == "texts-base"
        again = client.post("/recipe", json=answers, headers=ASKING)
        assert "texts-base.toml exists" in again.json()["error"]


def test_form_answers_only_its_own_page(folder: Path):
    with TestClient(create_form_app(InitForm({}, None, None), KEY), base_url="http://127.0.0.1") as client:
        assert client.get("/questions").status_code == 401
        assert client.post("/plans", json={}, headers={"Authorization": "Bearer another"}).status_code == 401
        assert client.post("/plans", json={}, headers=ASKING | {"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
        assert client.post("/plans", content=b"x" * (MAX_BODY_BYTES + 1), headers=ASKING).status_code == 413
        for body in (b"{", b"[]", b'{"data": 1}', b"[" * 50_000):
            assert client.post("/plans", content=body, headers=ASKING).status_code == 400
        assert not list(folder.glob("*.toml"))


def test_form_stops_when_the_recipe_is_written(folder: Path):
    app = create_form_app(InitForm({}, None, None), KEY)
    app.state.server = server = SimpleNamespace(should_exit=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        client.post("/plans", json={"data": "texts", "goal": "base", "hours": "0.1"}, headers=ASKING)
        assert not server.should_exit
        client.post("/recipe", json={"data": "nowhere"}, headers=ASKING)
        assert not server.should_exit
        client.post("/recipe", json={"data": "texts", "goal": "base", "hours": "0.1"}, headers=ASKING)
        assert server.should_exit


def test_unknown_plan_is_refused(folder: Path):
    with pytest.raises(UserError, match="--plan cheap: unknown plan"):
        init(data=["texts"], goal="base", plan="cheap", yes=True)
