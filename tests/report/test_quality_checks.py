"""Warnings about results that cannot be good, each at both sides of its threshold."""

import pytest

from groundup.report.quality_checks import check_run, check_stage, is_degenerate, strongest_baseline
from groundup.report.run_data import masked_lm_scores
from groundup.report.sections.scores_section import use_lines

GOOD_SCORES = {
    "bits_per_byte": 2.04, "loss": 4.4, "bits_per_byte_interval": [1.9, 2.2], "baselines": {"bigram": 2.38, "xz": 2.73},
    "samples": [{"prompt": "The", "text": " first of the two is older than the second one."}],
}  # fmt: skip
GOOD_CHAT = {
    "answers": [{"prompt": "Hello", "answer": "Hi"}], "recall": {"questions": 20, "recalled": 15},
    "conversations": {"train": 300}, "ordinary_text": {"before": 2.0, "after": 2.5},
}  # fmt: skip
GOOD = {
    "tokens": {"vocab_size": 4096, "unused_tokens": 100},
    "base": {"final_loss": 4.2, "validation": [{"step": 5, "bits_per_byte": 2.2}, {"step": 9, "bits_per_byte": 2.1}]},
    "scores": GOOD_SCORES,
    "chat": GOOD_CHAT,
}


def test_a_good_run_has_no_warnings():
    assert check_run(GOOD) == []


def test_translations_are_judged_by_pairs_not_by_recall():
    chat = GOOD_CHAT | {"recall": {"questions": 20, "recalled": 1}}
    better, worse = ({"bleu": bleu, "chrf": 15.5, "copying": {"bleu": 1.3, "chrf": 1.4}} for bleu in (4.8, 1.1))
    assert check_run(GOOD | {"chat": chat | {"translation": better}}) == []
    (warning,) = check_run(GOOD | {"chat": chat | {"translation": worse}})
    assert "no better than the input copied" in warning


@pytest.mark.parametrize(
    ("stage", "changes", "expected"),
    [
        ("tokens", {"unused_tokens": 900}, "900 of 4,096 tokens never occur"),
        (
            "base",
            {"validation": [{"step": 5, "bits_per_byte": 2.0}, {"step": 9, "bits_per_byte": 2.1}]},
            "best at step 5 of 9",
        ),
        ("scores", {"loss": 5.3}, "memorized: the training loss is 4.20 nats per token, that of held-out text 5.30"),
        ("scores", {"bits_per_byte": 2.39}, "no better than bigram (2.380)"),
        ("scores", {"bits_per_byte_interval": [0.49, 4.67]}, "too wide"),
        ("scores", {"bits_per_byte_interval": None}, "one held-out document"),
        ("scores", {"samples": [{"prompt": "The", "text": " module in in often" + " end" * 30}]}, "1 of 1 samples"),
        ("chat", {"answers": [{"prompt": "Hello", "answer": "and the patinate, " * 9}]}, "1 of 1 answers"),
        ("chat", {"answers": [{"prompt": "Hello", "answer": " "}]}, "1 of 1 answers"),
        ("chat", {"recall": {"questions": 20, "recalled": 9}}, "9 of 20 of its training questions"),
        ("chat", {"ordinary_text": {"before": 2.0, "after": 2.7}}, "made ordinary text harder"),
    ],
)
def test_each_fault_is_one_warning(stage: str, changes: dict, expected: str):
    metrics = GOOD | {stage: GOOD[stage] | changes}
    (warning,) = check_stage(stage, metrics)
    assert expected in warning
    assert check_run(metrics) == [warning]


@pytest.mark.parametrize(
    ("loss", "more", "expected"),
    [
        (
            {"train_start": 4.8, "train_end": 1.2},
            {},
            "1.2 nats per token, and would have to be 0.3: about 14 finetune.epochs",
        ),
        ({"train_start": 4.8, "train_end": 4.4}, {}, "0.3: a larger base model, or fewer conversations"),
        ({"train_start": 4.8, "train_end": 1.2}, {"stopped_early": True}, "finetune.keep_best_weights=false goes on"),
        ({"train_start": 4.8, "train_end": 0.2}, {}, "as trained: more finetune.epochs"),
    ],
)
def test_what_recall_would_need(loss: dict, more: dict, expected: str):
    chat = GOOD_CHAT | {"recall": {"questions": 20, "recalled": 1}, "epochs": 7.0, "loss": loss} | more
    (warning,) = check_stage("chat", {"chat": chat})
    assert expected in warning


def test_kept_weights_of_the_best_step_are_no_fault():
    rising = [{"step": 5, "bits_per_byte": 2.0}, {"step": 9, "bits_per_byte": 3.0}]
    assert check_stage("base", {"base": {"validation": rising, "kept_step": 5}}) == []
    assert len(check_stage("base", {"base": {"validation": rising, "kept_step": 9}})) == 1


def test_strongest_baseline_is_the_lowest():
    assert strongest_baseline(GOOD_SCORES) == ("bigram", 2.38)
    assert strongest_baseline({"baselines": {"xz": 2.7, "bigram": 2.9}}) == ("xz", 2.7)
    assert strongest_baseline({}) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HHHHHHHHuuuuHHHHHHHHuuuu", True),
        ("", True),
        ("To be, or not to be, that is the question: whether it is nobler in the mind to suffer", False),
        ("今日は天気がいいので、公園へ散歩に行きました。", False),
        ("今日は" * 9, True),
        ("I am a ched of s = a bat PPPPPPPPPPPPPPPPPPP", True),
        ("to amed to the ric of the ric,,,,,,,,,,,,,,,,,,,,, youpal at.", True),
        ("not the the the the ric am to amed to", True),
        ("1. Introduction ........................ 7\n2. Data -------- 9: 0 0 0 0 0", False),
    ],
)
def test_repetition(text: str, expected: bool):
    assert is_degenerate(text) == expected


def test_translations_that_repeat_themselves():
    rows = [{"source": "a", "reference": "b", "text": "при " * 9}, {"source": "a", "reference": "b", "text": "Готово"}]
    chat = {"answers": [], "translation": {"bleu": 9.0, "copying": {"bleu": 1.0}, "samples": rows}}
    (warning,) = check_run(GOOD | {"chat": chat})
    assert warning == "1 of 2 held-out translations are blank or repeat themselves"


def test_search_translation_and_labels_that_are_no_better_than_their_baseline():
    retrieval = {"accuracy": 0.2, "bm25": 0.3, "tf_idf": 0.1, "passages": 50, "before": 0.1}
    weak = {
        "retrieval": retrieval,
        "classification": {"accuracy": 0.6, "majority": 0.6},
        "translation": {"bleu": 3.0, "copying": {"bleu": 4.0}},
    }
    warnings = check_stage("chat", {"chat": weak})
    assert [warning.split(":")[0] for warning in warnings] == [
        "search by words (BM25) finds the right text first for 30% of the queries, the embeddings for 20%",
        "the classifier is no better than the most frequent label",
        "the translations are no better than the input copied",
    ]
    strong = {
        "retrieval": retrieval | {"accuracy": 0.4},
        "classification": {"accuracy": 0.7, "majority": 0.6},
        "translation": {"bleu": 5.0, "copying": {"bleu": 4.0}},
    }
    assert check_stage("chat", {"chat": strong}) == []

    def lines(chat: dict) -> list[str]:
        return use_lines({"stages": {"chat": {"metrics": chat}}})

    assert lines({"retrieval": retrieval, "examples": {}}) == [
        "The other half of a held-out passage comes first for 20% of 50 (10% before fine-tuning); by words (BM25) for "
        "30%, which is better"
    ]
    assert lines({"classification": {"accuracy": 0.7, "majority": 0.6, "examples": 40}}) == [
        "70% of 40 held-out texts get their label; the most frequent label alone: 60%"
    ]


def test_one_step_of_training_has_no_scores_on_masked_tokens():
    stages = {"scores": {"metrics": {"masked_lm": {"accuracy": 0.1}}}}
    for steps, expected in ((1, None), (2, {"accuracy": 0.1})):
        run_data = {"stages": stages | {"base": {"metrics": {"steps": steps}}}}
        assert masked_lm_scores(run_data) == expected


def test_rewards_that_teach_nothing():
    scores = {"before": 1.0, "after": 1.0, "difference_interval": [-0.05, 0.05]}
    curve = {"mixed_groups": [0.0, 0.0], "cut_answers": [0.9, 0.9], "reward": [1.0, 1.0]}
    warnings = check_run({"reinforcement": {"curve": curve, "held_out": scores}})
    for start in (
        "nothing to learn from: in 100% of the groups",
        "90% of the sampled answers were cut off",
        "held-out problems",
    ):
        assert any(warning.startswith(start) for warning in warnings), start
    better = {
        "curve": {"mixed_groups": [0.4], "cut_answers": [0.0], "reward": [0.4]},
        "held_out": scores | {"difference_interval": [0.1, 0.3]},
    }
    assert check_run({"reinforcement": better}) == []


def test_fine_tuning_that_makes_a_model_forget_its_answers():
    chat = {"answers": [], "learning_rate": 0.02, "recall": {"questions": 20, "before": 20, "recalled": 1},
            "conversations": {"train": 60, "read": 60, "dropped": {}}}  # fmt: skip
    (warning,) = check_run({"chat": chat})
    assert "20 of 20 training questions" in warning
    assert "lower finetune.learning_rate than 0.02" in warning
    lost = chat | {"recall": {"questions": 0}, "conversations": {"train": 5, "read": 40, "dropped": {"too_long": 28, "calls": 7},
                   "reasons": {"too_long": "beyond the sequence length"}}}  # fmt: skip
    assert check_run({"chat": lost}) == ["35 of 40 conversations were dropped, most as beyond the sequence length"]
