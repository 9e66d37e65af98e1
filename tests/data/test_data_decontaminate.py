from pathlib import Path

import pytest

from groundup.data.decontaminate import EvaluationIndex, contamination_filter

ITEM = "When a farmer has seventeen sheep and all but nine of them die, how many sheep does he have left in the end?"
WORDS = ITEM.lower().replace("?", "").replace(",", "").split()


def build_filter(rule: str, *items: tuple[str, str]):
    hits: list[str] = []
    return contamination_filter(EvaluationIndex.build(items, rule), rule, hits), hits


def test_shared_13_gram_drops_a_document():
    rule, hits = build_filter(
        "13-gram",
        ("riddles/1", ITEM),
        ("riddles/2", "something else that nobody would ever think of asking in an exam today"),
    )
    assert (
        rule("He said: WHEN a farmer -- has seventeen sheep and all, but nine of them die ... then what?") == "riddles"
    )
    assert hits == ["riddles/1"]
    assert rule(" ".join(WORDS[:12]) + " nothing " + " ".join(WORDS[12:])) is None
    assert rule("") is None


def test_short_items_are_one_ngram():
    rule, _ = build_filter("13-gram", ("q/1", "who wrote the book about the white whale"), ("q/2", "too short to tell"))
    assert rule("I asked him who wrote the book about the white whale, and he left") == "q"
    assert rule("who wrote the book about the white shark") is None
    assert rule("it is too short to tell anything by") is None


def test_document_with_70_percent_of_an_items_8_grams_is_dropped():
    rule, hits = build_filter("8-gram", ("riddles/1", ITEM))
    runs = len(WORDS) - 7
    enough = -(-7 * runs // 10) + 7
    assert rule(" ".join(WORDS[:enough])) == "riddles"
    assert rule(" ".join(WORDS[: enough - 1])) is None
    assert hits == ["riddles/1"]


def test_index_save_and_load(tmp_path: Path):
    index = EvaluationIndex.build(
        [("set/a", ITEM), ("set/b", ITEM + " And why, if one may ask so plainly?")], "13-gram"
    )
    index.save(tmp_path / "index.npz")
    again = EvaluationIndex.load(tmp_path / "index.npz")
    for rule in (contamination_filter(index, "13-gram", []), contamination_filter(again, "13-gram", [])):
        assert rule(ITEM) == "set"


@pytest.mark.parametrize("rule", ["13-gram", "8-gram"])
def test_empty_index_has_no_hits(rule: str):
    drop_reason, _ = build_filter(rule)
    assert drop_reason(ITEM) is None


CHINESE = "一个农夫有十七只羊，除了九只以外都死了，请问他现在还剩下多少只活着的羊？"
THAI = "ชาวนาคนหนึ่งมีแกะสิบเจ็ดตัวทุกตัวตายหมดยกเว้นเก้าตัวตอนนี้เขาเหลือแกะกี่ตัวกันแน่"


@pytest.mark.parametrize("rule", ["13-gram", "8-gram"])
@pytest.mark.parametrize("item", [CHINESE, THAI])
def test_items_without_spaces_are_found(rule: str, item: str):
    drop_reason, hits = build_filter(rule, ("riddles/1", item))
    assert drop_reason(f"{item[:2]}。{item}{item[5:9]}") == "riddles"
    assert drop_reason(item[: len(item) // 3] + item[-len(item) // 3 :]) is None
    assert hits == ["riddles/1"]


def test_vowel_signs_tell_words():
    drop_reason, _ = build_filter("13-gram", ("q/1", "कि " * 13))
    assert drop_reason("कि " * 13) == "q"
    assert drop_reason("की " * 13) is None
