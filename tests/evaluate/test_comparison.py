"""Comparisons by item: pairing, seeds, flags of contamination, ratings, and the page."""

import json
from pathlib import Path

import pytest

from groundup.artifacts.contamination_flags import contamination_flags
from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.cli.compare_command import comparison_lines, parse_entries
from groundup.evaluate.comparison import ItemScore, compare_entries
from groundup.evaluate.comparison.item_scores import BITS_PER_BYTE, item_key, read_item_scores, write_item_scores
from groundup.evaluate.comparison.rating_pairs import CHOICES, make_pairs, summarize_ratings
from groundup.evaluate.comparison.stored_scores import stored_scores
from groundup.evaluate.intervals import paired_share_interval, ratio_interval
from groundup.report.comparison_plot import plot_comparison
from groundup.report.rating_page import rating_page


def answers(right: list[float], task: str = "quiz") -> list[ItemScore]:
    return [ItemScore(task, "accuracy", item_key(number), score) for number, score in enumerate(right)]


def texts(bits: list[float]) -> list[ItemScore]:
    return [ItemScore("text", BITS_PER_BYTE, item_key(number), each, 4.0) for number, each in enumerate(bits)]


def test_differences_are_paired():
    first, second = [1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 1, 1]
    bits = [8.0, 9.0, 7.5], [7.0, 8.2, 6.4]
    quiz, text = compare_entries({
        "a": [answers(first) + texts(bits[0])],
        "b": [texts(bits[1]) + answers(second)[::-1] + answers([1] * 9)[6:]],
    })  # fmt: skip
    assert (quiz.items, quiz.unpaired) == (6, 3)
    change = quiz.entries[1].difference
    assert change.difference == pytest.approx(1 / 6)
    assert change.interval == pytest.approx(paired_share_interval(first, second))
    assert quiz.entries[0].difference is None
    change = text.entries[1].difference
    assert change.interval == pytest.approx(ratio_interval([-1.0, -0.8, -1.1], [4.0] * 3))
    assert change.is_visible
    assert "better (of these models; other seeds may differ)" in "\n".join(comparison_lines(text, {"a": "clean"}))
    with pytest.raises(UserError, match="no items in common"):
        compare_entries({"a": [answers([1], "x")], "b": [answers([1], "y")]})


def test_seeds_widen_an_interval():
    bits = [[8.0, 9.0, 7.5, 8.1], [7.0, 8.0, 6.5, 7.1], [8.6, 9.6, 8.1, 8.7]]
    one = compare_entries({"a": [texts(bits[0])], "b": [texts([each - 0.4 for each in bits[0]])]})[0].entries[1]
    some = compare_entries({
        "a": [texts(row) for row in bits], "b": [texts([each - 0.4 for each in row]) for row in bits],
    })[0].entries[1]  # fmt: skip
    assert [one.difference.difference, some.difference.difference] == pytest.approx([-0.1, -0.1])
    assert one.difference.is_visible
    assert not some.difference.is_visible
    assert some.difference.covers_seeds
    assert len(some.seed_scores) == 3


def test_stored_scores_and_flags(tmp_path: Path):
    with pytest.raises(UserError, match=r"no 05-scores/items\.jsonl"):
        stored_scores(tmp_path)
    (tmp_path / "05-scores").mkdir()
    write_item_scores(answers([1, 0]), tmp_path / "05-scores" / "items.jsonl")
    assert stored_scores(tmp_path) == answers([1, 0])
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="no scores of items"):
        read_item_scores(tmp_path / "other.jsonl")
    assert contamination_flags(tmp_path / "01-data") == {}
    data = tmp_path / "01-data"
    data.mkdir()
    sets = {"decontaminate": {"evaluation_sets": [{"name": "quiz"}, {"name": "exam"}]}}
    Manifest("data", 1, "f", sections={"data": sets}).write(data)
    rows = [{"source": "web", "id": str(number), "item": f"quiz/{number // 2}"} for number in range(4)]
    (data / "contaminated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert contamination_flags(tmp_path / "01-data") == {
        "quiz": "cleaned of 2 items, 4 documents dropped",
        "exam": "clean",
    }


def test_entries_of_the_command_line():
    assert parse_entries(["runs/a", "b=x/1,x/2"]) == {"a": [Path("runs/a")], "b": [Path("x/1"), Path("x/2")]}
    for arguments, message in (
        (["a"], "expected at least two"),
        (["x/a", "y/a"], "used twice"),
        (["b=", "c"], "names no model"),
    ):
        with pytest.raises(UserError, match=message):
            parse_entries(arguments)


def test_picture_and_page(tmp_path: Path):
    comparisons = compare_entries({"a": [answers([1, 0, 1])], "b": [answers([1, 1, 1])], "c": [answers([0, 0, 1])] * 2})
    assert plot_comparison(comparisons).count("quiz: accuracy") == 1
    nasty = "</script><script>alert(1)</script><!-- \x1b[0m"
    pairs = make_pairs({"a": {"p": nasty, "q": "same"}, "b": {"p": "fine", "q": "same"}}, seed=0)
    assert [(pair.prompt, {pair.left, pair.right}) for pair in pairs] == [("p", {nasty, "fine"})], (
        "equal answers are left out"
    )
    page = rating_page([vars(pair) for pair in pairs], list(CHOICES))
    assert page.count("</script>") == 2
    assert "http" not in page.replace("http-equiv", "").replace("groundup", "")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["choices"] == list(CHOICES)
    assert "\x1b" not in data["pairs"][0]["left"] + data["pairs"][0]["right"]


def test_sides_are_random_and_the_order_is_the_seed():
    many = {name: {str(number): name for number in range(40)} for name in ("a", "b")}
    pairs = make_pairs(many, seed=1)
    assert 10 < sum(pair.left_entry == "a" for pair in pairs) < 30
    assert pairs == make_pairs(many, seed=1) != make_pairs(many, seed=2)
    with pytest.raises(UserError, match="no prompt with different answers"):
        make_pairs({"a": {"p": "x"}, "b": {"q": "x"}}, seed=0)


def test_ratings(tmp_path: Path):
    path = tmp_path / "ratings.json"
    rows = [("left", "a", "b"), ("right", "b", "a"), ("tie", "a", "b"), ("left", "b", "a")]
    path.write_text(json.dumps({"ratings": [
        {"prompt": str(number), "left_entry": left, "right_entry": right, "choice": choice}
        for number, (choice, left, right) in enumerate(rows)
    ]}))  # fmt: skip
    (row,) = summarize_ratings(path)
    assert (row["entry"], row["other"], row["ratings"], row["wins"]) == ("a", "b", 4, 0.625)
    assert row["interval"][0] < 0.625 < row["interval"][1]
    path.write_text('{"ratings": [{"prompt": "x"}]}')
    with pytest.raises(UserError, match="no ratings"):
        summarize_ratings(path)
