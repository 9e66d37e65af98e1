import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.data import clean_texts, process_unit
from groundup.data.clean import c4, classifier, code_filter, fineweb, gopher, language, normalize, repetition, word_list
from groundup.data.clean.ngrams import ngram_hashes, word_ids
from groundup.recipe.data_config import (
    C4Config,
    CodeFilterConfig,
    FineWebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    LanguageConfig,
    WordListConfig,
)

GOOD = """The old mill stands where the road leaves the village and turns to the hills. Nobody has ground \
corn there for eighty years.
Its wheel was taken down in the second winter of the war, when wood was dear, and the stones were \
sold to a builder from the coast.
What is left are four thick walls, a roof that somebody mends every spring, and a door that will not close.
Children have always gone there. They say that a lamp can be seen in the upper window on nights \
without a moon.
My grandmother, who did not believe in lamps of that sort, went up with a stick and came back with \
a tramp, whom she fed for a week.
He repaid her by telling long stories of harbours in the south, of ships that carried oranges, and \
of a captain who could not swim.
I heard those tales later from her, and I could never tell which of them were his and which she had made.
There is a plan to turn the place into a museum. The council will vote on it in June, and most \
people expect that it will pass."""


# ---- normalisation


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("cafÃ© â€œquotedâ€\u009d it’s", "café “quoted” it’s"),
        ("donâ€™t\nSÃ£o Paulo\nÐ¿Ñ€Ð¸Ð²ÐµÑ‚", "don’t\nSão Paulo\nпривет"),
        ("e\u0301", "é"),
        ("zero\u200bwidth soft\u00adhyphen\ufeff", "zerowidth softhyphen"),
        ("no\u00a0break\u3000space   ", "no break space"),
        ("x² ﬁ", "x² ﬁ"),
        ("a\x00b\ud800c", "abc"),
        ("a\n\n\n\n\n\nb\n", "a\n\n\nb"),
        ("\tindented", "\tindented"),
        ("naïve Ärger Ã la", "naïve Ärger Ã la"),
    ],
)
def test_normalize(text: str, clean: str):
    assert normalize.normalize(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "„Spaß“", "Gauß’sche", "»weiß«", "„MENÜ“", "“CAFÉ”", "“Il est allé…”", "“PERÚ”", "l’Âge d’or", "Été – ‘à’",
        "„ÜBERSICHT“ ist Ö‘", "«É»", "Ã la", "می‌روم", "क्‍ष", "👨‍👩‍👧",
    ],
)  # fmt: skip
def test_correct_text_is_unchanged(text: str):
    assert normalize.normalize(text) == text


def test_code_keeps_what_has_a_meaning():
    code = 's = """a  \nb\t\n"""\n\x0c\nclass A:\n    pass\n\n\n\n\nx = "cafÃ©\u200b\u00a0e\u0301"\n'
    assert normalize.normalize_code(code) == code
    assert normalize.normalize_code("\ufeffa\r\nb\rc\ud800\0\n") == "a\nb\nc\n"
    kept, _ = clean_texts([code], "code")
    assert kept[0].text == code, "steps of code use it"


@given(st.text(max_size=80))
def test_normalize_is_idempotent(text: str):
    once = normalize.normalize(text)
    assert normalize.normalize(once) == once
    once.encode()  # what comes out can be written


@given(
    st.text(
        st.sampled_from("ab \t\n\r\x0b\x85\u00a0\u200b\u2028e\u0301\u00e9\u00c3\u00a9\u00e2\u20ac\ud800 ,."),
        max_size=30,
    )
)
def test_normalize_fast_path_equals_full_path(text: str):
    slow = "\n".join(line.rstrip(" \t") for line in normalize._repair(text).split("\n"))
    assert normalize.normalize(text) == normalize.MANY_LINES.sub("\n\n\n", slow).strip("\n")


@given(st.text(st.sampled_from("aBé_É «—.,9 \n\u0130\ud800"), max_size=20))
def test_text_key_ignores_case_and_punctuation(text: str):
    words = re.sub(r"\W+", "", text).lower()
    if words:
        assert process_unit.text_key(text) == process_unit.text_key(
            f"-- {text.upper() if words.upper().lower() == words else text}!\n"
        )
        assert process_unit.text_key(text) != process_unit.text_key(text + "x")
    elif text:
        assert process_unit.text_key(text) != process_unit.text_key(text + "!")


# ---- language


def test_language():
    seen: dict[str, int] = {}
    drop_reason = language.language_filter(LanguageConfig(languages=("en", "de")), seen)
    assert drop_reason("This is a plain English sentence about the weather.") is None
    assert drop_reason("Dies ist ein einfacher deutscher Satz über das Wetter.") is None
    assert drop_reason("Ceci est une simple phrase française sur le temps qu'il fait.") == "fr"
    assert seen == {"en": 1, "de": 1, "fr": 1}
    strict = language.language_filter(LanguageConfig(languages=("en", "de"), threshold=1.0), {})
    assert strict("Haus and house und so on 12 34") is not None
    assert language.language_filter(LanguageConfig(), seen)("Ceci est une simple phrase française.") is None
    assert seen["fr"] == 2, "all languages are kept by default, and counted"


# ---- the published rules, each with a text that breaks it alone


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("the cat sat and that is to be", "few_words"),
        ("a b " * 60 + "the to be of", "short_words"),
        ("incomprehensibilities antidisestablishmentarianism " * 40 + "the to", "long_words"),
        (GOOD + " # # # # # # # #" * 8, "hashes"),
        (GOOD.replace(" ", "... ", 40), "ellipses"),
        ("\n".join("- " + line for line in GOOD.split("\n")), "bullets"),
        (
            "\n".join(line + "..." if number % 2 else line for number, line in enumerate(GOOD.split("\n"))),
            "ellipsis_lines",
        ),
        (GOOD + " 1234" * 120, "no_letters"),
        (re.sub(r"\b([Tt]he|be|to|of|and|that|have|with)\b", "zum", GOOD), "no_stop_words"),
    ],
)
def test_gopher_quality(text: str, reason: str | None):
    assert gopher.gopher_quality_filter(GopherQualityConfig())(text) == reason


PROSE = json.loads(Path(__file__).with_name("prose.json").read_text(encoding="utf-8"))
"""The beginning of GOOD in other languages."""


@pytest.mark.parametrize("code", PROSE)
def test_prose_of_every_language_passes_the_default_filters(code: str):
    _, dropped = clean_texts([PROSE[code]], kind="text")
    assert not dropped, dropped[0].reason
    seen: dict[str, int] = {}
    language.language_filter(LanguageConfig(), seen)(PROSE[code])
    assert seen == {code: 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Fenster Tür Straße Dorf Mühle Hügel Küste Garten Brücke Markt Lehrer Arzt Regen Schnee " * 5,
            "no_stop_words",
        ),
        ("古い水車小屋は、道が村を離れて丘へ向かう場所に立っている。", "few_words"),
    ],
)
def test_gopher_quality_drops_lists_and_snippets_in_other_languages(text: str, reason: str):
    assert gopher.gopher_quality_filter(GopherQualityConfig())(text) == reason


def test_repetition_in_a_script_without_spaces():
    text = PROSE["zh"] + "点击这里查看更多内容，欢迎关注我们。" * 20
    assert repetition.gopher_repetition_filter(GopherRepetitionConfig())(PROSE["zh"]) is None
    assert repetition.gopher_repetition_filter(GopherRepetitionConfig())(text) is not None


def test_gopher_quality_can_be_tuned():
    assert (
        gopher.gopher_quality_filter(GopherQualityConfig(min_words=3))("the small cat sat there and wants to sleep")
        is None
    )
    assert gopher.gopher_quality_filter(GopherQualityConfig(max_words=50))(GOOD) == "many_words"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("\n\n".join(["one short paragraph"] * 4 + [GOOD]), "repeated_paragraphs"),
        ("\n".join(["a line"] * 9 + GOOD.split("\n")[:9]), "repeated_lines"),
        (GOOD + "\n" + "\n".join([GOOD[:400]] * 3) + "\n" + "\n".join(GOOD.split()), "repeated_paragraphs_characters"),
        (GOOD + " very very" * 60, "top_2_gram"),
        ("we say what we always say here " * 40, "top_3_gram"),
    ],
)
def test_gopher_repetition(text: str, reason: str | None):
    found = repetition.gopher_repetition_filter(GopherRepetitionConfig())(text)
    if reason == "repeated_paragraphs_characters":
        assert found is not None
        assert found.startswith("repeated_")
    else:
        assert found == reason


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=60), st.integers(5, 10))
def test_repeated_characters_equal_brute_force_and_respect_bound(words: list[str], n: int):
    seen: set[tuple[str, ...]] = set()
    characters = position = 0
    while position <= len(words) - n:
        ngram = tuple(words[position : position + n])
        hit = ngram in seen
        characters += len("".join(ngram)) if hit else 0
        position += n if hit else 1
        seen.add(ngram)
    numbers, lengths = word_ids(words), numpy.array([len(word) for word in words], dtype=numpy.int64)
    positions = repetition.repeated_positions(ngram_hashes(numbers, 5))
    assert repetition.repeated_characters(numbers, lengths, positions, n) == characters
    assert characters <= repetition.repeated_bound(positions, lengths, 5)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=40), st.integers(2, 4))
def test_top_ngram_is_found(words: list[str], n: int):
    from collections import Counter

    runs = [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
    run, count = Counter(runs).most_common(1)[0] if runs else ("", 0)
    lengths = numpy.array([len(word) for word in words])
    assert repetition.top_characters(word_ids(words), lengths, n) == len(run) * count
    assert n * repetition.top_bound(word_ids(words), lengths) >= len(run) * count


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_equal_ngrams_have_equal_hashes(numbers: list[int], length: int):
    hashes = ngram_hashes(numpy.array(numbers, dtype=numpy.uint64), length).tolist()
    runs = [tuple(numbers[start : start + length]) for start in range(len(numbers) - length + 1)]
    assert len(hashes) == len(runs)
    assert len(set(zip(runs, hashes, strict=True))) == len(set(runs)) == len(set(hashes))


def test_c4_keeps_lines_that_are_sentences():
    change, drop_reason = c4.c4_line_mapper(C4Config()), c4.c4_filter(C4Config())
    text = (
        "Home | About\nThis is a line that ends.[1]\nToo short.\nPlease enable Javascript to see it.\n"
        'Read the privacy policy of this site.\nAnd so on...\nIs it? Yes! He said "no."'
    )
    assert change(text) == 'This is a line that ends.\nIs it? Yes! He said "no."'
    assert drop_reason("One. Two. Three. Four. Five.") is None
    assert drop_reason("One. Two. Three. Four.") == "few_sentences"
    assert drop_reason("One. Two. Three. Four. Lorem ipsum dolor.") == "lorem_ipsum"
    assert drop_reason("One. Two. Three. Four. function() {") == "curly_bracket"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("\n".join(line + " and so" for line in GOOD.split("\n")), "few_ended_lines"),
        ("\n".join(["A short line."] * 1 + [f"Line {n}." for n in range(9)] + [GOOD[:200]]), "short_lines"),
        (GOOD + "\n" + GOOD.split("\n")[0], "repeated_lines"),
    ],
)
def test_fineweb(text: str, reason: str | None):
    assert fineweb.fineweb_filter(FineWebConfig())(text) == reason
    assert fineweb.fineweb_filter(FineWebConfig(max_newlines_per_word=0.0))(GOOD) == "list"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x):\n    return x + 1\n", None),
        ("x = '" + "a" * 1001 + "'\n" + "y = 1\n" * 200, "long_line"),
        (
            "value = call(argument, another, more, and, more, until, this, line, is, too, very, long, indeed, it, is, not, so)\n"
            * 3,
            "long_lines",
        ),
        ("{}[]();--==++\n" * 9, "few_letters"),
        ("<?xml version='1.0'?>\n<a>text</a>\n", "xml"),
        ("# Code generated by protoc. DO NOT EDIT.\nx = 1\n", "generated"),
    ],
)
def test_code(text: str, reason: str | None):
    assert code_filter.code_filter(CodeFilterConfig())(text) == reason
    if reason == "generated":
        assert code_filter.code_filter(CodeFilterConfig(drop_generated=False))(text) is None


def test_word_lists(tmp_path: Path):
    path = tmp_path / "words.txt"
    path.write_text("# a comment\nspam\nbuy now\n")
    drop_reason = word_list.word_list_filter(WordListConfig(name="spam", path=str(path), max_hits=1))
    assert drop_reason("Spam! Buy now, spam.") == "spam"
    assert drop_reason("One word of spam is let pass.") is None
    assert drop_reason("spam buy now " + "other words " * 500) is None
    with pytest.raises(UserError, match=r"none\.txt cannot be read"):
        word_list.word_list_filter(WordListConfig(name="spam", path=str(tmp_path / "none.txt")))


# ---- the classifier


def test_classifier_learns_and_is_deterministic(prose: Callable[..., str]):
    good = [prose(seed) for seed in range(40)]
    bad = [
        f"BUY cheap {word} now!!! click here $$$ best price {word} deal" for word in "abcdefghijklmnopqrstuvwxyz"
    ] * 2
    weights = classifier.train_classifier(good, bad, seed=5)
    assert min(classifier.quality_score(weights, prose(seed)) for seed in range(100, 110)) > 0.8
    assert classifier.quality_score(weights, "click here for the best cheap price!!!") < 0.2
    assert numpy.array_equal(weights, classifier.train_classifier(good, bad, seed=5))
    assert classifier.quality_score(weights, "") == 0.5
